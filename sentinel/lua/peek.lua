-- peek: what of a partition waits for Zion. Changes nothing. Python: Ledger.peek.
-- KEYS    1 a unreported sums  2 b sealed batches  3 s their next attempt       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 at most so many sealed batches are looked at for their age
-- returns {fields in the unreported sums, sealed batches, batches that are due, age of the oldest looked at ms}
-- clock   Redis TIME
-- cost    O(batches looked at); take seals no new ones above a few, so that there are few
-- include: _clock
local now, age = read_clock(tonumber(ARGV[1])), 0
for _, batch_id in ipairs(redis.call('ZRANGE', KEYS[3], 0, tonumber(ARGV[2]) - 1)) do
  local head = redis.call('HGET', KEYS[2], batch_id .. ':head')
  if head then age = math.max(age, now - cjson.decode(head)[1]) end
end
return {redis.call('HLEN', KEYS[1]), redis.call('ZCARD', KEYS[3]), redis.call('ZCOUNT', KEYS[3], '-inf', whole(now)), age}
