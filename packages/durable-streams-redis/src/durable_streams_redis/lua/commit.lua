-- One guarded change to one entity: recognise a resend, check the guard, then write.
--
-- No rule of the protocol is here. Everything that can fail is checked before the first write, and
-- the bytes are the first write, because an error leaves earlier writes of a script in place.
-- Positions and deadlines are below 2^53, so Lua's numbers hold them exactly, but never `tostring`.
--
-- KEYS  1 entity  2 bytes  3 field keys  4 feed  5 deadlines  6 paths  7, 8 removals, new and old
--       9 bytes  10 field keys, of the entity created where one is removed
-- ARGV  1 path  2 mark of the commit  3 base  4 incarnation that must be there ('': nothing)
--       5 flags: o must be open, R remove, N create, C close, D has data, A sent before (look
--         for it in all that was appended since), P only probe, W write something even for a
--         resend, so that WAIT has something to wait for
--       6, 7, 8 state, tail, deadline that must be so  9, 10 state, deadline to set ('': no change)
--       11 length of the feed, then
--       with N: incarnation, birth, start, closed, state, deadline
--       four lists, each after its length: guard fields (key, '-' or '+' .. value), kinds of which
--       there must be none, fields to set (key, '-' or '+' .. value), chunks of data
-- Returns {1, tail}, {0} or {0, head…, values…} for a guard that does not hold,
--         {2, code, message}, or {3} from a probe that does not know the commit.

local entity, bytes, index, feed, deadlines = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local paths, removals, removals_before = KEYS[6], KEYS[7], KEYS[8]
local path, mark, base, wanted, flags = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local SLICE = 4000        -- `unpack` fails past about 8,000
local PAGE = 32           -- entries looked at together for a resend
local RING = 8            -- commits without data that an entity remembers
local REMOVALS = 1024     -- removals that a shard remembers at least
local REMOVALS_FOR = 600000
local SMALL = 1024        -- bytes that ride along in the feed
local LAST_POSITION = 9007199254740991

local function has(flag) return string.find(flags, flag, 1, true) ~= nil end
local function fixed(position) return string.format('%016.0f', position) end

local at = 12
local created
if has('N') then
  created = {incarnation = ARGV[12], birth = ARGV[13], start = ARGV[14], closed = ARGV[15],
             state = ARGV[16], deadline = ARGV[17]}
  at = 18
end
local function list(width)
  local first, count = at + 1, tonumber(ARGV[at])
  at = first + count * width
  return first, count
end
local guards, guard_count = list(2)
local kinds, kind_count = list(1)
local sets, set_count = list(2)
local chunks, chunk_count = list(1)

local size = 0
for n = chunks, chunks + chunk_count - 1 do size = size + #ARGV[n] end

-- What is there.

local names = {'i', 's', 't', 'c', 'x', 'd', 'r', 'm', 'n'}
local HEAD = #names
for n = 0, guard_count - 1 do names[#names + 1] = '.' .. ARGV[guards + 2 * n] end
for n = 0, set_count - 1 do names[#names + 1] = '.' .. ARGV[sets + 2 * n] end
local values = {}
for first = 1, #names, SLICE do
  local slice = redis.call('HMGET', entity, unpack(names, first, math.min(first + SLICE - 1, #names)))
  for n = 1, #slice do values[first + n - 1] = slice[n] end
end
local incarnation, start, tail, closed, state, deadline, ring, made, packed = unpack(values, 1, HEAD)

-- Was it applied before? Marks have 19 digits, positions 16.

local function find(record)
  if not record then return nil end
  local found = string.find(record, ';' .. mark, 1, true)
  return found and string.sub(record, found + 20, found + 35)
end

local function find_entry()
  local oldest = string.format('%.0f-0', tonumber(base) + 1)
  local from = '+'
  repeat
    local page = redis.call('XREVRANGE', bytes, from, oldest, 'COUNT', PAGE)
    for n = 1, #page do
      local dash = string.find(page[n][1], '-', 1, true)
      -- Of a commit in several chunks the newest comes first, and ends at its tail.
      if string.sub(page[n][1], dash + 1) == mark then return string.sub(page[n][1], 1, dash - 1) end
    end
    from = #page == PAGE and '(' .. page[PAGE][1]
  until not from or not has('A')
end

local function find_removed(of)
  local key = of .. ':' .. path
  return find(redis.call('HGET', removals, key)) or find(redis.call('HGET', removals_before, key))
end

local function find_resend()
  if created then
    if incarnation == created.incarnation then return find(made) end
    local found = find_removed(created.incarnation)
    if found then return found end
  end
  if wanted == '' then return nil end
  if incarnation ~= wanted then return find_removed(wanted) end
  if has('D') and not created then return tonumber(tail) > tonumber(base) and find_entry() or nil end
  return find(ring)
end

local before = find_resend()
if before then
  if has('W') then
    redis.call('HSET', removals, '', '')
    redis.call('PEXPIRE', removals, REMOVALS_FOR)
  end
  return {1, before}
end
if has('P') then return {3} end

-- Does the guard hold?

local function conflict()
  if not incarnation then return {0} end
  local reply = {0, incarnation, redis.call('HGET', entity, 'b'), start, tail, closed, state,
                 deadline, packed}
  for n = HEAD + 1, #names do reply[#reply + 1] = values[n] end
  return reply
end

if (incarnation or '') ~= wanted then return conflict() end
if incarnation then
  if (ARGV[6] ~= '' and ARGV[6] ~= state) or (ARGV[7] ~= '' and ARGV[7] ~= tail)
    or (ARGV[8] ~= '' and ARGV[8] ~= deadline) or (closed == '1' and has('o')) then
    return conflict()
  end
  for n = 0, guard_count - 1 do
    local value = values[HEAD + 1 + n]
    if (value and '+' .. value or '-') ~= ARGV[guards + 2 * n + 1] then return conflict() end
  end
end
local counts = packed and cmsgpack.unpack(packed) or {}
for n = kinds, kinds + kind_count - 1 do
  if incarnation and counts[ARGV[n]] then return conflict() end
end

-- Can it be written?

local removes = has('R') and incarnation
if not created and (removes or not incarnation) then size, chunk_count, set_count = 0, 0, 0 end
local first_position = tonumber(created and created.start or tail or 0)
if first_position + size > LAST_POSITION then
  return {2, 'storage-full', 'The stream has reached the last position there is.'}
end
if created and not incarnation and redis.call('EXISTS', entity) == 1 then
  return redis.error_reply('WRONGTYPE the hash holds no entity')
end
redis.call('XLEN', feed)
if created or removes then
  redis.call('ZCARD', paths)
  redis.call('HLEN', removals)
  redis.call('HLEN', removals_before)
end
if created or removes or ARGV[10] ~= '' then redis.call('ZCARD', deadlines) end
if set_count > 0 then redis.call('ZCARD', index) end

-- Nothing can fail from here on but the first XADD, which then has changed nothing.

local new_bytes, new_index = bytes, index
if removes and created then new_bytes, new_index = KEYS[9], KEYS[10] end
local position = first_position
for n = chunks, chunks + chunk_count - 1 do
  position = position + #ARGV[n]
  redis.call('XADD', new_bytes, string.format('%.0f', position) .. '-' .. mark, 'b', ARGV[n])
end
local new_tail = fixed(position)

local function tell(of, at_tail, flags, data)
  redis.call('XADD', feed, 'MAXLEN', '~', ARGV[11], '1-*',
             'p', path, 'i', of, 't', at_tail, 'c', flags, 'd', data)
end

if removes then
  tell(incarnation, tail, closed == '1' and '3' or '2', '')
  local record = ';' .. mark .. (created and new_tail or fixed(0)) .. (ring or '') .. made
  local seen = ''
  for _, entry in ipairs(redis.call('XREVRANGE', bytes, '+', '-', 'COUNT', RING)) do
    local dash = string.find(entry[1], '-', 1, true)
    local of = string.sub(entry[1], dash + 1)
    if of ~= seen then
      record = record .. ';' .. of .. fixed(tonumber(string.sub(entry[1], 1, dash - 1)))
      seen = of
    end
  end
  if redis.call('HLEN', removals) >= REMOVALS then redis.call('RENAME', removals, removals_before) end
  redis.call('HSET', removals, incarnation .. ':' .. path, record)
  redis.call('PEXPIRE', removals, REMOVALS_FOR)
  redis.call('UNLINK', entity, bytes, index)
  if not created then
    redis.call('ZREM', paths, path)
    redis.call('ZREM', deadlines, path)
    return {1, fixed(0)}
  end
end
if not created and not incarnation then return {1, fixed(0)} end

local writes = {}
local function set(name, value)
  writes[#writes + 1] = name
  writes[#writes + 1] = value
end

local new_deadline
if created then
  incarnation, closed, state = created.incarnation, created.closed, created.state
  new_deadline, counts = created.deadline, {}
  set('i', incarnation)
  set('b', created.birth)
  set('s', created.start)
  set('m', ';' .. mark .. new_tail)
  redis.call('ZADD', paths, 0, path)
end
if created or size > 0 then set('t', new_tail) end
if has('C') then closed = '1' end
if ARGV[9] ~= '' then state = ARGV[9] end
if ARGV[10] ~= '' then new_deadline = ARGV[10] end
if created or has('C') then set('c', closed) end
if created or ARGV[9] ~= '' then set('x', state) end
if new_deadline then
  set('d', new_deadline)
  if new_deadline ~= '0' then
    redis.call('ZADD', deadlines, new_deadline, path)
  elseif not created or removes then
    redis.call('ZREM', deadlines, path)
  end
end
if size == 0 and not created then
  set('r', string.sub(';' .. mark .. new_tail .. (ring or ''), 1, 36 * RING))
end

if set_count > 0 then
  local counted = false
  for n = 0, set_count - 1 do
    local key, value = ARGV[sets + 2 * n], ARGV[sets + 2 * n + 1]
    local there = not created and values[HEAD + 1 + guard_count + n]
    local kind = string.match(key, '^[%z\1-\127\194-\244][\128-\191]*')
    if value == '-' then
      if there then
        redis.call('HDEL', entity, '.' .. key)
        redis.call('ZREM', new_index, key)
        counts[kind] = (counts[kind] or 0) - 1
        if counts[kind] <= 0 then counts[kind] = nil end
        counted = true
      end
    else
      set('.' .. key, string.sub(value, 2))
      if not there then
        redis.call('ZADD', new_index, 0, key)
        counts[kind] = (counts[kind] or 0) + 1
        counted = true
      end
    end
  end
  if counted then
    if next(counts) then set('n', cmsgpack.pack(counts)) else redis.call('HDEL', entity, 'n') end
  end
end

for first = 1, #writes, SLICE do
  redis.call('HSET', entity, unpack(writes, first, math.min(first + SLICE - 1, #writes)))
end

if created or size > 0 or has('C') or ARGV[9] ~= '' then
  local told = (closed == '1' and 1 or 0) + (state ~= 'live' and 2 or 0)
  local data = ''
  if chunk_count == 0 then
    told = told + 4
  elseif size <= SMALL then
    told, data = told + 4, ARGV[chunks]
  end
  tell(incarnation, new_tail, string.format('%d', told), data)
end
return {1, new_tail}
