-- ack_items: Zion has answered single increments of a batch that could not be sent whole; note it, so that they are never sent again,
--       and keep the claim. With none of them: it is about to go one by one, and never whole again. Python: Ledger.ack_items.
-- KEYS    1 b sealed batches  2 s their next attempt       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 batch id  3 claim ms  4 JSON [[position of the increment from 0, reason or '' where it is booked], ..]
-- returns {1 noted | 0 no such batch: somebody else got it through}
-- clock   Redis TIME
-- cost    O(increments of the batch)
-- b: field "<batch id>:parts" holds the JSON of all that were answered so far
-- include: _clock
local field = ARGV[2] .. ':parts'
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return {0} end
local parts, known = cjson.decode(redis.call('HGET', KEYS[1], field) or '[]'), {}
for _, part in ipairs(parts) do known[part[1]] = true end
for _, part in ipairs(cjson.decode(ARGV[4])) do
  if not known[part[1]] then parts[#parts + 1] = part end
end
redis.call('HSET', KEYS[1], field, cjson.encode(parts))
redis.call('ZADD', KEYS[2], whole(read_clock(tonumber(ARGV[1])) + tonumber(ARGV[3])), ARGV[2])
return {1}
