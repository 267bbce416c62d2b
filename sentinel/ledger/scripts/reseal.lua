-- reseal: a batch that Redis has lost is sealed again as it was, once, so that Zion, which may have it, gets the same bytes under the
-- same id; its items are taken out of the sums, where they are again. Python: Ledger.reseal.
-- KEYS    1 a unreported sums  2 b sealed batches  3 s their next attempt  4 y batches that Zion has  5 p run of Redis
--         6.. q accounts of the callers in the batch       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 batch id  3 its place in KEYS[4]  4 JSON [time stamp, format]  5 JSON items, both as in take
--         6 the run of Redis that the caller has known first ('' where it knows none)  7.. the external ids of KEYS[6..], in that
--         order
-- returns {1 sealed again | 0 nothing was lost: it waits, or Zion is known to have it}
-- clock   Redis TIME, never before the last of an account
-- cost    O(items). Bills of the batch that are told later still net with what is taken out of the sums here. It is due when nobody
--         has to tell of what was lost any more: what Zion acknowledges must be known here by then.
-- include: _clock
-- include: _account
-- include: _names
-- include: _unreported
-- include: _run
local now, batch_id = read_clock(tonumber(ARGV[1])), ARGV[2]
if redis.call('HEXISTS', KEYS[2], batch_id) == 1 or redis.call('GETBIT', KEYS[4], ARGV[3]) == 1 then return {0} end
local accounts = {}
for at = 7, #ARGV do accounts[ARGV[at]] = open_account(KEYS[at - 1], now) end

local function take_out(who, period, current, amounts)
  local field, left = unreported_field(who, period), {0, 0, 0}
  if period ~= current then
    -- Bills that were told again after the end of the period are in the next one, and so is the rest to take out.
    local there = {string.match(redis.call('HGET', KEYS[1], field) or '0|0|0', '^(-?%d+)|(-?%d+)|(-?%d+)$')}
    for at = 1, 3 do left[at] = amounts[at] - math.min(amounts[at], math.max(0, tonumber(there[at]))) end
    add_unreported(KEYS[1], unreported_field(who, current), -left[1], -left[2], -left[3])
  end
  add_unreported(KEYS[1], field, left[1] - amounts[1], left[2] - amounts[2], left[3] - amounts[3])
end

for _, item in ipairs(cjson.decode(ARGV[5])) do
  local who, current = written_who(item[1], item[2], item[3]), period_start(accounts[item[1]])
  take_out(who, item[4], math.max(item[4], current), {item[5], item[6], item[7]})
end
-- Whoever had it may have sent it.
redis.call('HSET', KEYS[2], batch_id, ARGV[5], batch_id .. ':head', ARGV[4], batch_id .. ':lost', 1)
redis.call('ZADD', KEYS[3], whole(math.max(now, sealing_from(KEYS[5], KEYS[3], now, ARGV[6]))), batch_id)
return {1}
