-- One snapshot of an entity: its head, the named fields, and some of its bytes.
--
-- KEYS  1 entity  2 bytes (only where some are wanted)
-- ARGV  1 incarnation that must be there ('': any)  2 position  3 most bytes (0: none)
--       4… names of fields
-- Returns nothing, or {head…, counts, bytes, values…}. Bytes may end before the tail and the most:
-- a call looks at a bounded number of entries, so that it never holds the server for long.

local ENTRIES = 1024
local SLICE = 4000

local head = redis.call('HMGET', KEYS[1], 'i', 'b', 's', 't', 'c', 'x', 'd', 'l', 'p', 'e', 'n')
if not head[1] or (ARGV[1] ~= '' and ARGV[1] ~= head[1]) then return false end

local start, wanted = tonumber(ARGV[2]), tonumber(ARGV[3])
local parts = {}
if wanted > 0 and start < tonumber(head[4]) then
  local from, count, looked = string.format('%.0f-0', start + 1), 16, 0
  local got = 0
  while got < wanted and looked < ENTRIES do
    local page = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', count)
    for n = 1, #page do
      local data = page[n][2][2]
      if got == 0 then
        -- The first entry may begin before the position.
        local dash = string.find(page[n][1], '-', 1, true)
        local skip = start - (tonumber(string.sub(page[n][1], 1, dash - 1)) - #data)
        if skip < 0 then return redis.error_reply('HOLE bytes are missing') end
        if skip > 0 then data = string.sub(data, skip + 1) end
      end
      if got + #data > wanted then data = string.sub(data, 1, wanted - got) end
      parts[#parts + 1] = data
      got = got + #data
      if got >= wanted then break end
    end
    if got == 0 then return redis.error_reply('HOLE bytes are missing') end
    looked = looked + #page
    if #page < count then break end
    from = '(' .. page[#page][1]
    count = math.max(16, math.min(ENTRIES - looked, math.ceil((wanted - got) * looked / got)))
  end
end
head[12] = table.concat(parts)

for first = 4, #ARGV, SLICE do
  local names = {}
  for n = first, math.min(first + SLICE - 1, #ARGV) do names[#names + 1] = '.' .. ARGV[n] end
  local values = redis.call('HMGET', KEYS[1], unpack(names))
  for n = 1, #values do head[#head + 1] = values[n] end
end
return head
