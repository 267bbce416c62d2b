-- expire_holds: claim holds whose lease is over, for the caller to settle as expired. Python: Ledger.expire_holds.
-- KEYS    1 r holds  2 z deadlines  3 g unfinished work       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 claim ms: until then no other sweeper gets them  3 at most so many
-- returns {number, then for each: request id, JSON [external id, e-mail, model], input held, output so far}
-- clock   Redis TIME
-- The hold of work that is noted stays: whoever follows it settles it by what it has cost.
-- cost    O(log holds + claimed). A sweeper that dies leaves its claims to the next one.
-- include: _clock
-- include: _holds
local now = read_clock(tonumber(ARGV[1]))
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', whole(now), 'LIMIT', 0, ARGV[3])
local answer = {0}
for _, request_id in ipairs(over) do
  local hold = redis.call('HGET', KEYS[1], request_id)
  if hold and redis.call('HEXISTS', KEYS[3], request_id) == 1 then
    redis.call('ZADD', KEYS[2], whole(now + tonumber(ARGV[2])), request_id)
  elseif hold then
    local input, _, _, produced = struct.unpack(HOLD, hold)
    redis.call('ZADD', KEYS[2], whole(now + tonumber(ARGV[2])), request_id)
    answer[1] = answer[1] + 1
    answer[#answer + 1] = request_id
    answer[#answer + 1] = string.sub(hold, HOLD_BYTES + 1)
    answer[#answer + 1] = input
    answer[#answer + 1] = produced
  else
    redis.call('ZREM', KEYS[2], request_id)
  end
end
return answer
