-- retry_batch: a report did not get through: the same batch again later, by whoever asks first. Python: Ledger.retry_batch.
-- KEYS    1 s next attempts of the sealed batches  2 b sealed batches       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 batch id  3 ms until the next attempt  4 1 where it is certain that Zion has booked nothing of it
-- returns {1 put off | 0 no such batch: somebody else got it through}
-- clock   Redis TIME
-- cost    O(log batches)
-- include: _clock
if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then return {0} end
redis.call('ZADD', KEYS[1], whole(read_clock(tonumber(ARGV[1])) + tonumber(ARGV[3])), ARGV[2])
if ARGV[4] == '1' then redis.call('HDEL', KEYS[2], ARGV[2] .. ':sending') end
return {1}
