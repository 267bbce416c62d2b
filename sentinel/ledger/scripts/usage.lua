-- usage: what one caller has used and has left, every period that is over begun anew, as admit would see it. Changes nothing.
-- Python: LedgerAdmin.account.
-- KEYS    1 q account
-- ARGV    1 now_ms (0 = TIME)  2 requests a window (-1 = no window)  3 window ms
-- returns {clock ms, when Zion was asked ms (0: the limits are not known), requests left in the window, ms until some come back
--         (-1: no window), then for input, output, requests: limit (-1 unlimited), base, settled, acknowledged, held,
--         period start ms, end ms (0: never), period name}; used is base + settled
-- clock   Redis TIME, never before the last of the account
-- cost    O(1)
-- include: _clock
-- include: _account
-- include: _window
local rate, _, left, reset = tonumber(ARGV[2]), nil, -1, -1
local account = open_account(KEYS[1], read_clock(tonumber(ARGV[1])))
if rate >= 0 then _, left, reset = read_window(account.w, account.now, rate, tonumber(ARGV[3]) / BUCKETS) end
local answer = {account.now, account.fetched, left, reset}
for _, metric in ipairs(METRICS) do
  local sums = account[metric]
  for _, field in ipairs({'l', 'b', 's', 'a', 'h', 'p', 'e', 'k'}) do answer[#answer + 1] = sums[field] end
end
return answer
