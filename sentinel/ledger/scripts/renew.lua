-- renew: a request still runs: extend its lease and note what it has produced. Python: Ledger.renew.
-- KEYS    1 r holds  2 z deadlines  3 d tombstone       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 request id  3 lease ms  4 output tokens so far  5 life of an expired one's tombstone ms
-- returns {1 extended | 0 no such hold}; where it was charged as expired, the charge stays open for the truth
-- clock   Redis TIME; a step backwards only makes the lease end sooner or later by that step
-- cost    O(log holds)
-- include: _clock
-- include: _holds
local hold = redis.call('HGET', KEYS[1], ARGV[2])
if not hold then
  local stone = redis.call('GET', KEYS[3])
  if stone and cjson.decode(stone)[1] == 'expired' then redis.call('PEXPIRE', KEYS[3], ARGV[5]) end
  return {0}
end
local input, output, bucket = struct.unpack(HOLD, hold)
local who = string.sub(hold, HOLD_BYTES + 1)
redis.call('HSET', KEYS[1], ARGV[2], struct.pack(HOLD, input, output, bucket, tonumber(ARGV[4])) .. who)
redis.call('ZADD', KEYS[2], whole(read_clock(tonumber(ARGV[1])) + tonumber(ARGV[3])), ARGV[2])
return {1}
