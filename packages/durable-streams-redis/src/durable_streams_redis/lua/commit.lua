-- One guarded change to one entity: recognise a resend, check the guard, then write.
--
-- No rule of the protocol is here. Everything that can fail is checked before the first write, or is
-- the first write, because an error leaves earlier writes of a script in place. The first write goes
-- to the feed: it fails on a feed of another timeline (see begin.lua) and on one that was flushed.
-- Positions and deadlines are below 2^53, so Lua's numbers hold them exactly, but never `tostring`.
-- Functions are made where they are needed, because each call of the script makes them anew.
--
-- A plain append, which is most of what there is, has a form of its own: one chunk of data for a live
-- and open entity, sent for the first time. It names no key and sends no argument that it does not
-- need, because each costs it a part of a microsecond, and where nobody appended meanwhile it is done
-- after one look.
--
-- KEYS  1 entity  2 bytes  3 feed
-- ARGV  1 mark of the commit  2 base  3 length of the feed  4 timeline of the shard  5 data
-- Returns tail and timeline of the tail in one string, or {5} where it has to be sent in the other
-- form; nothing was done then. Else as the other form:
--
-- KEYS  1 entity  2 bytes  3 feed  4, 5 removals, new and old, then
--       with M: 6 field keys  7 deadlines  8 paths  9 latest timeline that was given
--       10 bytes  11 field keys, of the entity created where one is removed
-- ARGV  1 path  2 mark of the commit  3 base  4 incarnation that must be there ('': nothing)
--       5 flags: M more than a plain append, o must be open, R remove, N create, C close, D has
--         data, A sent before (look for it in all that was appended since), P only probe, W write
--         something even for a resend, so that WAIT has something to wait for, T give what is
--         created a timeline later than any that was given before
--       6 state that must be so ('': any)  7 length of the feed  8 timeline of the shard, then
--       with M: 9, 10 tail, deadline that must be so  11, 12 state, deadline to set ('': no change)
--       with N: incarnation, birth, start, closed, state, deadline, timeline, past, number of the
--       shard, number of shards
--       with M: three lists, each after its length: guard fields (key, '-' or '+' .. value), kinds
--       of which there must be none, fields to set (key, '-' or '+' .. value)
--       and last the chunks of data
-- A timeline of an entity is 16 digits; its past is records of timeline and end, 32 digits each.
-- Returns {1, tail, timeline of the tail}, {0} or {0, head…, values…} for a guard that does not hold,
--         {2, code, message}, {3} from a probe that does not know the commit, or {4} where the
--         shard has another timeline and nothing was done.

local SLICE = 4000        -- `unpack` fails past about 8,000
local PAGE = 32           -- entries looked at together for a resend
local RING = 8            -- commits without data that an entity remembers
local TIMELINES = 32      -- earlier timelines that an entity remembers
local REMOVALS = 1024     -- removals that a shard remembers at least
local REMOVALS_FOR = 600000
local SMALL = 1024        -- bytes that ride along in the feed
local LAST_POSITION = 9007199254740991

local call, find, sub, format = redis.call, string.find, string.sub, string.format
local entity, bytes, feed, removals, older_removals = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local path, mark, base, wanted, flags, state_to_be, feed_length, shard_timeline
local plain = not removals
local chunks = 9
if plain then
  chunks = 5
  mark, base, feed_length, shard_timeline = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
  flags, state_to_be = 'oD', 'live'
  -- The keys begin as the feed's does, before its last four letters: then 'e:' path, and 'b:'
  -- incarnation ':' path.
  path = sub(entity, #feed - 1)
  wanted = sub(bytes, #feed - 1, -2 - #path)

  local found = call('HMGET', entity, 'i', 't', 'c', 'x', 'l', 'e')
  if found[2] == base and found[1] == wanted and found[3] == '0' and found[4] == 'live'
    and found[6] == shard_timeline then
    local added = ARGV[5]
    local position = base + #added
    if position <= LAST_POSITION then
      local tail = format('%016d', position)
      local timeline = found[5] or '0000000000000000'
      local small = #added <= SMALL
      -- Writes as below, and as safely.
      local told_as = redis.pcall('XADD', feed, 'NOMKSTREAM', 'MAXLEN', '~', feed_length,
                                  shard_timeline .. '-*', (small and '4' or '0') .. tail .. timeline
                                  .. #wanted .. ':' .. wanted .. path, small and added or '')
      if type(told_as) ~= 'string' then
        if told_as and find(told_as.err, 'WRONGTYPE', 1, true) then return told_as end
        return {4}
      end
      local stored = redis.pcall('XADD', bytes, tail .. '-' .. mark, 'b', added)
      if type(stored) ~= 'string' then
        call('XDEL', feed, told_as)
        return stored
      end
      call('HSET', entity, 't', tail)
      return tail .. timeline
    end
  end
else
  path, mark, base, wanted, flags = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
  state_to_be, feed_length, shard_timeline = ARGV[6], ARGV[7], ARGV[8]
end
local closes, has_data = find(flags, 'C', 1, true), find(flags, 'D', 1, true)

local index, deadlines, paths, last_timeline
local tail_to_be, deadline_to_be, state_to_set, deadline_to_set = '', '', '', ''
local created
local guards, guard_count, kinds, kind_count, sets, set_count = 0, 0, 0, 0, 0, 0
local more = find(flags, 'M', 1, true)
if more then
  index, deadlines, paths, last_timeline = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
  tail_to_be, deadline_to_be, state_to_set, deadline_to_set = ARGV[9], ARGV[10], ARGV[11], ARGV[12]
  local at = 13
  if find(flags, 'N', 1, true) then
    created = {incarnation = ARGV[13], birth = ARGV[14], start = ARGV[15], closed = ARGV[16],
               state = ARGV[17], deadline = ARGV[18], timeline = ARGV[19], past = ARGV[20],
               shard = tonumber(ARGV[21]), shards = tonumber(ARGV[22])}
    at = 23
  end
  guards, guard_count = at + 1, tonumber(ARGV[at])
  at = guards + 2 * guard_count
  kinds, kind_count = at + 1, tonumber(ARGV[at])
  at = kinds + kind_count
  sets, set_count = at + 1, tonumber(ARGV[at])
  chunks = sets + 2 * set_count
end
local chunk_count = #ARGV - chunks + 1

-- What is there.

local HEAD = 12
local values
if not more then
  values = call('HMGET', entity, 'i', 't', 'c', 'x', 'l', 'e')
elseif guard_count + set_count == 0 then
  values = call('HMGET', entity, 'i', 't', 'c', 'x', 'l', 'e', 's', 'd', 'r', 'm', 'n', 'p')
else
  local names = {'i', 't', 'c', 'x', 'l', 'e', 's', 'd', 'r', 'm', 'n', 'p'}
  for n = 0, guard_count - 1 do names[HEAD + 1 + n] = '.' .. ARGV[guards + 2 * n] end
  for n = 0, set_count - 1 do names[#names + 1] = '.' .. ARGV[sets + 2 * n] end
  if #names <= SLICE then
    values = call('HMGET', entity, unpack(names))
  else
    values = {}
    for first = 1, #names, SLICE do
      local last = math.min(first + SLICE - 1, #names)
      local slice = call('HMGET', entity, unpack(names, first, last))
      for n = 1, #slice do values[first + n - 1] = slice[n] end
    end
  end
end
local incarnation, tail, closed, state, timeline, written_in, start, deadline, ring, made, packed,
  past = unpack(values, 1, HEAD)
local NO_TIMELINE = '0000000000000000'

-- The timeline of a position, as `Head.timeline_at` has it.
local function timeline_of(position)
  for at = 1, #(past or ''), 32 do
    if position <= sub(past, at + 16, at + 31) then return sub(past, at, at + 15) end
  end
  return timeline or NO_TIMELINE
end

-- Was it applied before? Marks have 19 digits and positions 16, in records of ';' mark position.

local before
if has_data and not created and incarnation == wanted then
  if tail ~= base then
    local oldest, from = format('%.0f-0', tonumber(base) + 1), '+'
    repeat
      local page = call('XREVRANGE', bytes, from, oldest, 'COUNT', PAGE)
      for n = 1, #page do
        local dash = find(page[n][1], '-', 1, true)
        -- Of a commit in several chunks the newest comes first, and ends at its tail.
        if sub(page[n][1], dash + 1) == mark then
          before = sub(page[n][1], 1, dash - 1)
          break
        end
      end
      from = #page == PAGE and '(' .. page[PAGE][1]
    until before or not from or not find(flags, 'A', 1, true)
  end
elseif plain then
  -- Only the other form names the keys in which to look for it.
  return {5}
else
  local function find_in(record)
    local found = record and find(record, ';' .. mark, 1, true)
    return found and sub(record, found + 20, found + 35)
  end
  local function find_removed(of)
    local key = of .. ':' .. path
    return find_in(call('HGET', removals, key)) or find_in(call('HGET', older_removals, key))
  end
  if created and incarnation == created.incarnation then
    before = find_in(made)
  else
    before = created and find_removed(created.incarnation)
    if not before and wanted ~= '' then
      if incarnation == wanted then before = find_in(ring) else before = find_removed(wanted) end
    end
  end
end
if before then
  if plain then return {5} end
  if find(flags, 'W', 1, true) then
    call('HSET', removals, '', '')
    call('PEXPIRE', removals, REMOVALS_FOR)
  end
  local there = incarnation and incarnation == (created and created.incarnation or wanted)
  if not there then return {1, before, NO_TIMELINE} end
  before = format('%016.0f', tonumber(before))
  if not more then past = call('HGET', entity, 'p') end
  return {1, before, timeline_of(before)}
end
if find(flags, 'P', 1, true) then return {3} end

-- Does the guard hold?

local holds = (incarnation or '') == wanted
if holds and incarnation then
  holds = (state_to_be == '' or state_to_be == state) and (tail_to_be == '' or tail_to_be == tail)
    and (deadline_to_be == '' or deadline_to_be == deadline)
    and (closed == '0' or not find(flags, 'o', 1, true))
  for n = 0, guard_count - 1 do
    local value = values[HEAD + 1 + n]
    holds = holds and (value and '+' .. value or '-') == ARGV[guards + 2 * n + 1]
  end
end
local counts = (kind_count > 0 or set_count > 0) and packed and cmsgpack.unpack(packed) or {}
if incarnation then
  for n = kinds, kinds + kind_count - 1 do holds = holds and not counts[ARGV[n]] end
end
if not holds then
  if not incarnation then return {0} end
  local head = call('HMGET', entity, 'i', 'b', 's', 't', 'c', 'x', 'd', 'l', 'p', 'e', 'n')
  local reply = {0, unpack(head)}
  for n = HEAD + 1, HEAD + guard_count + set_count do reply[n - HEAD + 1 + #head] = values[n] end
  return reply
end

-- Can it be written?

local removes = incarnation and find(flags, 'R', 1, true)
if not created and (removes or not incarnation) then chunk_count, set_count = 0, 0 end
local size = 0
for n = chunks, chunks + chunk_count - 1 do size = size + #ARGV[n] end
local position = tonumber(created and created.start or tail or 0)
if position + size > LAST_POSITION then
  return {2, 'storage-full', 'The stream has reached the last position there is.'}
end
if created and not incarnation and call('EXISTS', entity) == 1 then
  return redis.error_reply('WRONGTYPE the hash holds no entity')
end
local latest
if created or removes then
  call('ZCARD', paths)
  call('HLEN', removals)
  call('HLEN', older_removals)
  latest = call('GET', last_timeline) or NO_TIMELINE
end
if created or removes or deadline_to_set ~= '' then call('ZCARD', deadlines) end
if set_count > 0 then call('ZCARD', index) end

local new_tail = format('%016.0f', position + size)
local was_closed = closed
if created then closed, state = created.closed, created.state end
if closes then closed = '1' end
if state_to_set ~= '' then state = state_to_set end
-- The first bytes in a timeline: what the entity held before is told apart from them for ever.
local turns = size > 0 and incarnation and not created and written_in ~= shard_timeline
local removed_in = removes and timeline_of(tail)
local removed_timeline = timeline
if created then
  timeline, past = created.timeline, created.past
  if removes and removed_timeline and removed_timeline > latest then latest = removed_timeline end
  if find(flags, 'T', 1, true) then
    -- The next one of this shard: no other shard gives one with the same remainder.
    local given = math.max(tonumber(timeline), tonumber(latest) + 1)
    given = given + (created.shard - given) % created.shards
    timeline = format('%016.0f', given)
  end
elseif turns then
  -- As `Head.moved_on` does it.
  if not more then past = call('HGET', entity, 'p') end
  past = past or ''
  if past == '' or sub(past, -16) < tail then past = past .. (timeline or NO_TIMELINE) .. tail end
  past = sub(past, -32 * TIMELINES)
  timeline = format('%016.0f', math.max(tonumber(shard_timeline), tonumber(timeline or 0) + 1))
end
local tail_timeline = timeline or NO_TIMELINE
if size == 0 then tail_timeline = timeline_of(new_tail) end

-- The first write: to the feed. Nothing can fail after it but the first XADD of bytes.

local change, data, gone
if created or size > 0 or closes or state_to_set ~= '' then
  local told = closed == '1' and 1 or 0
  data = ''
  if state ~= 'live' then told = told + 2 end
  if size <= SMALL and not turns then
    told = told + 4
    if size > 0 then data = ARGV[chunks] end
  end
  local of = created and created.incarnation or incarnation
  if of then change = told .. new_tail .. tail_timeline .. #of .. ':' .. of .. path end
end
if removes then
  gone = (was_closed == '1' and 3 or 2) .. tail .. removed_in
    .. #incarnation .. ':' .. incarnation .. path
  if not created then change = nil end
end
local told_as
if gone or change then
  told_as = redis.pcall('XADD', feed, 'NOMKSTREAM', 'MAXLEN', '~', feed_length, shard_timeline .. '-*',
                        gone or change, gone and '' or data)
  if type(told_as) ~= 'string' then
    if told_as and find(told_as.err, 'WRONGTYPE', 1, true) then return told_as end
    return {4}
  end
else
  local newest = call('XREVRANGE', feed, '+', '-', 'COUNT', 1)[1]
  if not newest or string.match(newest[1], '^%d+') ~= shard_timeline then return {4} end
end

local new_bytes, new_index = bytes, index
if removes and created then new_bytes, new_index = KEYS[10], KEYS[11] end
for n = chunks, chunks + chunk_count - 1 do
  position = position + #ARGV[n]
  local added = redis.pcall('XADD', new_bytes, format('%.0f-', position) .. mark, 'b', ARGV[n])
  if type(added) ~= 'string' then
    call('XDEL', feed, told_as)
    return added
  end
end
if gone and change then
  call('XADD', feed, 'MAXLEN', '~', feed_length, shard_timeline .. '-*', change, data)
end

if removes then
  local record = ';' .. mark .. (created and new_tail or '0000000000000000') .. (ring or '') .. made
  local seen = ''
  for _, entry in ipairs(call('XREVRANGE', bytes, '+', '-', 'COUNT', RING)) do
    local dash = find(entry[1], '-', 1, true)
    local of = sub(entry[1], dash + 1)
    if of ~= seen then
      record = record .. ';' .. of .. format('%016.0f', tonumber(sub(entry[1], 1, dash - 1)))
      seen = of
    end
  end
  if call('HLEN', removals) >= REMOVALS then call('RENAME', removals, older_removals) end
  call('HSET', removals, incarnation .. ':' .. path, record)
  call('PEXPIRE', removals, REMOVALS_FOR)
  if removed_timeline and removed_timeline > latest then
    call('SET', last_timeline, removed_timeline)
  end
  call('UNLINK', entity, bytes, index)
  if not created then
    call('ZREM', paths, path)
    call('ZREM', deadlines, path)
  end
end
if not created and (removes or not incarnation) then return {1, '0', NO_TIMELINE} end

local writes = {}
local new_deadline
if created then
  new_deadline, counts = created.deadline, {}
  writes = {'i', created.incarnation, 'b', created.birth, 's', created.start,
            'm', ';' .. mark .. new_tail, 'e', shard_timeline}
  if timeline ~= NO_TIMELINE then
    writes[#writes + 1] = 'l'
    writes[#writes + 1] = timeline
  end
  if past ~= '' then
    writes[#writes + 1] = 'p'
    writes[#writes + 1] = past
  end
  if timeline > latest then call('SET', last_timeline, timeline) end
  call('ZADD', paths, 0, path)
elseif size == 0 then
  writes = {'r', sub(';' .. mark .. new_tail .. (ring or ''), 1, 36 * RING)}
elseif turns then
  writes = {'e', shard_timeline, 'l', timeline, 'p', past}
end
if created or size > 0 then
  writes[#writes + 1] = 't'
  writes[#writes + 1] = new_tail
end
if created or closes then
  writes[#writes + 1] = 'c'
  writes[#writes + 1] = closed
end
if created or state_to_set ~= '' then
  writes[#writes + 1] = 'x'
  writes[#writes + 1] = state
end
if deadline_to_set ~= '' then new_deadline = deadline_to_set end
if new_deadline then
  writes[#writes + 1] = 'd'
  writes[#writes + 1] = new_deadline
  if new_deadline ~= '0' then
    call('ZADD', deadlines, new_deadline, path)
  elseif not created or removes then
    call('ZREM', deadlines, path)
  end
end

local counted = false
for n = 0, set_count - 1 do
  local key, value = ARGV[sets + 2 * n], ARGV[sets + 2 * n + 1]
  local there = not created and values[HEAD + 1 + guard_count + n]
  local more = 0
  if value ~= '-' then
    writes[#writes + 1] = '.' .. key
    writes[#writes + 1] = sub(value, 2)
    if not there then
      call('ZADD', new_index, 0, key)
      more = 1
    end
  elseif there then
    call('HDEL', entity, '.' .. key)
    call('ZREM', new_index, key)
    more = -1
  end
  if more ~= 0 then
    local kind = string.match(key, '^[%z\1-\127\194-\244][\128-\191]*')
    counts[kind] = (counts[kind] or 0) + more
    if counts[kind] == 0 then counts[kind] = nil end
    counted = true
  end
end
if counted then
  if next(counts) then
    writes[#writes + 1] = 'n'
    writes[#writes + 1] = cmsgpack.pack(counts)
  else
    call('HDEL', entity, 'n')
  end
end

for first = 1, #writes, SLICE do
  call('HSET', entity, unpack(writes, first, math.min(first + SLICE - 1, #writes)))
end

return {1, new_tail, tail_timeline}
