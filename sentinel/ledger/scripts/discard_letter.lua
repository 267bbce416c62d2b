-- discard_letter: a dead letter is given up, once: Zion never hears of it, and its caller is charged for it here no more, where the period
-- in which it was settled still runs. Python: LedgerAdmin.discard_letter.
-- KEYS    1 x dead letters  2 q account of its caller       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 id of the dead letter
-- returns {1 dropped | 0 no such dead letter: it was requeued or dropped before}
-- clock   Redis TIME, never before the last of the account
-- cost    O(1)
-- include: _clock
-- include: _account
local letter = redis.call('HGET', KEYS[1], ARGV[2])
if not letter then return {0} end
local item, account = cjson.decode(letter)[3], open_account(KEYS[2], read_clock(tonumber(ARGV[1])))
if not account.new then
  for at, metric in ipairs(METRICS) do
    local sums = account[metric]
    -- What Zion has acknowledged stays: an account that was lost and made anew may count less than this letter.
    if item[4] >= sums.c then sums.s = math.max(sums.s - item[4 + at], math.min(sums.s, sums.a)) end
  end
  -- Whoever dropped it may have booked it in Zion by hand: the next admission asks Zion anew.
  account.rolled = account.now
  save_account(account)
end
redis.call('HDEL', KEYS[1], ARGV[2])
return {1}
