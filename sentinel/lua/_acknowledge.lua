-- Part: a sealed batch is done with Zion. Every item but the `refused` (position from 0, as a string, to reason) is acknowledged
-- in its caller's account, if the account still counts the period in which it was settled; never more than was settled there,
-- so that an account that was lost and made anew errs on the safe side. The items, or nil where the batch was gone already.
local function acknowledge(batch_id, refused, account_keys, now)
  local sealed = redis.call('HGET', KEYS[1], batch_id)
  if not sealed then return nil end
  redis.call('HDEL', KEYS[1], batch_id, batch_id .. ':head', batch_id .. ':attempt')
  redis.call('ZREM', KEYS[2], batch_id)
  local items, accounts = cjson.decode(sealed), {}
  for external_id, key in pairs(account_keys) do accounts[external_id] = open_account(key, now) end
  for position, item in ipairs(items) do
    local account = accounts[item[1]]
    if account and not refused[tostring(position - 1)] then
      for at, metric in ipairs(METRICS) do
        local sums = account[metric]
        if item[4] >= sums.c then sums.a = math.min(sums.a + item[4 + at], math.max(sums.s, sums.a)) end
      end
    end
  end
  for _, account in pairs(accounts) do
    if not account.new then save_account(account) end
  end
  return items
end
