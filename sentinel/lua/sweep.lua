-- sweep: claim holds whose lease is over, for the caller to settle as expired. Python: Ledger.sweep.
-- KEYS    1 r holds  2 z deadlines       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 claim ms: until then no other sweeper gets them  3 at most so many
-- returns {number, then for each: request id, JSON [external id, e-mail, model, input held, output held], output so far}
-- clock   Redis TIME
-- cost    O(log holds + claimed). A sweeper that dies leaves its claims to the next one.
-- include: _clock
local now = read_clock(tonumber(ARGV[1]))
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', whole(now), 'LIMIT', 0, ARGV[3])
local answer = {0}
for _, request_id in ipairs(over) do
  local found = redis.call('HMGET', KEYS[1], request_id, request_id .. ':output')
  if found[1] then
    redis.call('ZADD', KEYS[2], whole(now + tonumber(ARGV[2])), request_id)
    answer[1] = answer[1] + 1
    answer[#answer + 1] = request_id
    answer[#answer + 1] = found[1]
    answer[#answer + 1] = found[2] or '0'
  else
    redis.call('ZREM', KEYS[2], request_id)
  end
end
return answer
