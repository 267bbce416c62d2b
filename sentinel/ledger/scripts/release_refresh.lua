-- release_refresh: whoever was to refresh a caller's limits could not: somebody else may. Python: Ledger.release_refresh.
-- KEYS    1 q account
-- ARGV    1 now_ms (0 = TIME)
-- returns {1 released | 0 no such account}
-- clock   Redis TIME, never before the last of the account
-- cost    O(1)
-- include: _clock
-- include: _account
local account = open_account(KEYS[1], read_clock(tonumber(ARGV[1])))
if account.new then return {0} end
account.refresh = 0
save_account(account)
return {1}
