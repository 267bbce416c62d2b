-- Part: a sealed batch is done with Zion. Every item, less what is `refused` of it (position from 0, as a string, to [reason, then
-- the input, output and requests refused; without them: all]), is acknowledged in its caller's account, if the account still
-- counts the period in which it was settled; never more than was settled there, so that an account that was lost and made anew
-- errs on the safe side. The items, or nil where the batch was gone already.
-- y:{sPP}:<who made the call>:<n>: a bitmap by the number of the call that sealed it: a batch that Zion has. Such a one is never sealed
-- again (reseal).
local KNOWN_LIFE_MS = 172800000

local function acknowledge(batch_id, refused, account_keys, now, known_key, place)
  local sealed = redis.call('HGET', KEYS[1], batch_id)
  if not sealed then return nil end
  redis.call('HDEL', KEYS[1], batch_id, batch_id .. ':head', batch_id .. ':attempt', batch_id .. ':parts',
    batch_id .. ':sending', batch_id .. ':lost')
  redis.call('ZREM', KEYS[2], batch_id)
  if place >= 0 then
    redis.call('SETBIT', known_key, place, 1)
    if redis.call('PTTL', known_key) < KNOWN_LIFE_MS then redis.call('PEXPIRE', known_key, KNOWN_LIFE_MS + MINUTE_MS) end
  end
  local items, accounts = cjson.decode(sealed), {}
  for external_id, key in pairs(account_keys) do accounts[external_id] = open_account(key, now) end
  for position, item in ipairs(items) do
    local account, left = accounts[item[1]], refused[tostring(position - 1)]
    if account then
      for at, metric in ipairs(METRICS) do
        local sums, amount = account[metric], item[4 + at]
        if left then amount = amount - (left[1 + at] or amount) end
        if item[4] >= sums.c then sums.a = math.min(sums.a + amount, math.max(sums.s, sums.a)) end
      end
    end
  end
  for _, account in pairs(accounts) do
    if not account.new then save_account(account) end
  end
  return items
end
