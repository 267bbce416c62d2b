-- peek: what of a partition waits for Zion. Changes nothing, but notes a run of Redis that is met for the first time (_run).
--       Python: Ledger.peek.
-- KEYS    1 a unreported sums  2 b sealed batches  3 s their next attempt  4 p run of Redis       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 at most so many sealed batches are looked at for their age  3 the run of Redis that the
--         caller has known first ('' where it knows none)
-- returns {fields in the unreported sums, sealed batches, batches that are due, age of the oldest looked at ms, ms for which no new
--         batch is sealed}
-- clock   Redis TIME
-- cost    O(batches looked at); take seals no new ones above a few, so that there are few
-- include: _clock
-- include: _run
local now, age = read_clock(tonumber(ARGV[1])), 0
local wait = math.max(0, sealing_from(KEYS[4], KEYS[3], now, ARGV[3]) - now)
for _, batch_id in ipairs(redis.call('ZRANGE', KEYS[3], 0, tonumber(ARGV[2]) - 1)) do
  local head = redis.call('HGET', KEYS[2], batch_id .. ':head')
  if head then age = math.max(age, now - cjson.decode(head)[1]) end
end
local due = redis.call('ZCOUNT', KEYS[3], '-inf', whole(now))
return {redis.call('HLEN', KEYS[1]), redis.call('ZCARD', KEYS[3]), due, age, wait}
