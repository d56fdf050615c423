-- Begins a new timeline of a shard when its data may have gone back: the server process is not the
-- one that the shard was last written on (a restart, a failover), or the feed has no timeline as
-- late as the caller asks for (a flush, or data that went back under its eyes).
--
-- A timeline is the first half of the ids in the feed, in milliseconds since 1970. Commits name the
-- timeline that they belong to, so none is applied by a process that has not noticed the change.
--
-- KEYS  1 feed  2 run
-- ARGV  1 which server process this is  2 the earliest timeline that the caller accepts  3 the
--       earliest time, in milliseconds since 1970, that a new timeline may have
-- Returns the timeline.

local feed, run = KEYS[1], KEYS[2]
local current = 0
for _, entry in ipairs(redis.call('XREVRANGE', feed, '+', '-', 'COUNT', 1)) do
  current = tonumber(string.match(entry[1], '^%d+'))
end
local known, least = tonumber(ARGV[2]), tonumber(ARGV[3])
if current > 0 and current >= known and redis.call('GET', run) == ARGV[1] then return current end

local now = redis.call('TIME')
local timeline = math.max(now[1] * 1000 + math.floor(now[2] / 1000), current + 1, known + 1, least)
redis.call('XADD', feed, string.format('%.0f-0', timeline), 'run', ARGV[1])
redis.call('SET', run, ARGV[1])
return timeline
