-- install_limits: install what Zion says about one caller. Python: Ledger.install_limits.
-- KEYS    1 q account
-- ARGV    1 now_ms (0 = TIME)  2 when Zion was asked, Unix ms (0 = now)  then for input, output, requests: limit (-1 unlimited),
--         used, period start ms, period end ms (0 = unknown or never), period name, acknowledged before Zion was asked
-- returns {1 installed | 0 older than what is known, clock ms}
-- clock   Redis TIME, never before the last of the account
-- cost    O(1)
-- base = used - acknowledged: what Zion has from us beyond that is counted twice until the next snapshot, never too little.
-- include: _clock
-- include: _account
local account = open_account(KEYS[1], read_clock(tonumber(ARGV[1])))
local now = account.now
local fetched = tonumber(ARGV[2])
if fetched == 0 or fetched > now then fetched = now end
if fetched < account.fetched then return {0, now} end
local at = 3
for _, metric in ipairs(METRICS) do
  local sums = account[metric]
  local limit, used, start, stop = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local name, acked = ARGV[at + 4], tonumber(ARGV[at + 5])
  at = at + 6
  if stop == 0 and calendar(name, now) then start, stop = calendar(name, now) end
  if stop > 0 and now >= stop then
    -- Zion spoke of a period that is over: its figure says nothing about this one.
    start, stop = following(name, start, stop, now)
    if sums.p ~= start or account.fetched == 0 then sums.b = 0 end
  else
    -- Acknowledged in an earlier period than this: not part of what Zion counts now.
    if fetched < sums.c then acked = 0 end
    sums.b = used - math.min(acked, sums.a)
  end
  sums.l, sums.p, sums.e, sums.k = limit, start, stop, name
end
account.fetched, account.refresh = fetched, 0
save_account(account)
return {1, now}
