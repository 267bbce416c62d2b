-- gate_result: what became of a call that the gate let go. Python: Gate.report_result.
-- KEYS    1 zg state  2 zg reports in the last second       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 id of the call  3 result: ok | failed | busy (Zion said 429) | unused (there was nothing to send)
--         4 failures in a row that open the breaker  5 ms it stays open  6 ms for which a busy Zion wants no call
-- returns {breaker 1 open | 0 closed, 1 where this call opened or closed it}
-- clock   Redis TIME, never before the last that let a call go
-- cost    O(1). Told twice is told once. While the breaker is open only its probe counts: others left before it opened.
-- include: _clock
local LIFE_MS = 86400000
local id, result, failures_max = ARGV[2], ARGV[3], tonumber(ARGV[4])
local values = redis.call('HMGET', KEYS[1], 'failed', 'open', 'probe', 'shut', 'clock')
local failed, open, shut = cjson.decode(values[1] or '[]'), tonumber(values[2]) or 0, tonumber(values[4]) or 0
local probed = values[3] == id
local now = math.max(read_clock(tonumber(ARGV[1])), tonumber(values[5]) or 0)
local before = open > 0

if result == 'busy' then
  redis.call('HSET', KEYS[1], 'shut', whole(math.max(shut, now + tonumber(ARGV[6]))))
elseif result == 'unused' then
  redis.call('ZREM', KEYS[2], id)
elseif open == 0 and result == 'ok' then
  redis.call('HDEL', KEYS[1], 'failed')
elseif open == 0 then
  for _, other in ipairs(failed) do
    if other == id then return {0, 0} end
  end
  failed[#failed + 1] = id
  if #failed >= failures_max then
    open = now + tonumber(ARGV[5])
    redis.call('HSET', KEYS[1], 'open', whole(open))
    redis.call('HDEL', KEYS[1], 'failed')
  else
    redis.call('HSET', KEYS[1], 'failed', cjson.encode(failed))
  end
elseif probed and result == 'ok' then
  open = 0
  redis.call('HDEL', KEYS[1], 'open')
elseif probed then
  redis.call('HSET', KEYS[1], 'open', whole(now + tonumber(ARGV[5])))
end
if probed then redis.call('HDEL', KEYS[1], 'probe', 'probing') end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('PEXPIRE', KEYS[1], LIFE_MS) end
return {open > 0 and 1 or 0, (open > 0) ~= before and 1 or 0}
