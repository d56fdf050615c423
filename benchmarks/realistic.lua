-- The realistic load for wrk: each request has a trace id and a request id of its own and goes to
-- the next of many streams. benchmarks/realistic.py makes the same requests.
--   wrk -t1 -c32 -d3s -s realistic.lua http://127.0.0.1:PORT/ -- OPERATION PREFIX STREAMS PRODUCER
local operation, prefix, streams, producer
-- wrk makes one request before the first that it sends.
local made = -1
-- A producer's batches must not overtake each other. The first requests of connections that are
-- accepted late might, so the producers begin after so many reads.
local reads = 0

function init(args)
  operation, prefix, streams, producer = args[1], args[2], tonumber(args[3]), args[4]
  if operation == "producers" then reads = 1000 end
end

function request()
  local n = math.max(made, 0)
  made = made + 1
  local headers = {
    ["User-Agent"] = "python-httpx/0.28.1", ["Accept"] = "*/*", ["Accept-Encoding"] = "gzip, deflate",
    ["Authorization"] = "Bearer abcdefghijklmnopqrstuvwxyz", ["X-Forwarded-For"] = "10.1.2.3",
    ["traceparent"] = string.format("00-%032x-%016x-01", n * 7919, n),
    ["X-Request-Id"] = string.format("%08x-%04x", n * 31, n % 65536),
  }
  if operation == "read" or n < reads then
    return wrk.format("GET", prefix .. (n % streams) .. "?offset=-1", headers)
  end
  n = n - reads
  headers["Content-Type"] = "application/json"
  if operation == "producers" then
    headers["Producer-Id"], headers["Producer-Epoch"] = producer, "0"
    headers["Producer-Seq"] = string.format("%d", math.floor(n / streams))
  end
  return wrk.format("POST", prefix .. (n % streams), headers, '{"t":"tok","n":12345}')
end
