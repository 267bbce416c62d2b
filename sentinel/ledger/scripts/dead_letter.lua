-- dead_letter: Zion has taken a batch except for some items, refused for good: those become dead letters, still counted against the
--         caller here; the rest is acknowledged, once. Python: Ledger.dead_letter.
-- KEYS    1 b sealed batches  2 s their next attempt  3 x dead letters  4 y batches that Zion has  5.. q accounts of the callers
--         (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 batch id  3 JSON {position from 0: [reason, then the input, output and requests refused; without
--         them: all]}  4 its place in KEYS[4] (-1: none)  5.. the external ids of KEYS[5..], in that order
-- returns {1 acknowledged and buried | 0 was before, or is not known}
-- clock   Redis TIME, never before the last of an account
-- cost    O(items)
-- x: field "<batch id>:<position>", value JSON [reason, Unix ms, item as in take, with the amounts that were refused]
-- include: _clock
-- include: _account
-- include: _acknowledge
local keys, refused = {}, cjson.decode(ARGV[3])
for at = 5, #ARGV do keys[ARGV[at]] = KEYS[at] end
local now = read_clock(tonumber(ARGV[1]))
local items = acknowledge(ARGV[2], refused, keys, now, KEYS[4], tonumber(ARGV[4]))
if not items then return {0} end
for position, left in pairs(refused) do
  local item = items[tonumber(position) + 1]
  if item then
    for at = 1, 3 do item[4 + at] = left[1 + at] or item[4 + at] end
    redis.call('HSET', KEYS[3], ARGV[2] .. ':' .. position, cjson.encode({left[1], now, item}))
  end
end
return {1}
