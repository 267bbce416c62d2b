-- Part: a sealed batch is done with Zion. Every item but the `refused` (position from 0, as a string, to reason) is acknowledged
-- in its caller's account, if the account still counts the period in which it was settled; never more than was settled there,
-- so that an account that was lost and made anew errs on the safe side. The items, or nil where the batch was gone already.
local function acknowledge(batch_id, refused, account_keys)
  local sealed = redis.call('HGET', KEYS[1], batch_id)
  if not sealed then return nil end
  redis.call('HDEL', KEYS[1], batch_id, batch_id .. ':head', batch_id .. ':attempt')
  redis.call('ZREM', KEYS[2], batch_id)
  local items = cjson.decode(sealed)
  for position, item in ipairs(items) do
    local account = account_keys[item[1]]
    if account and not refused[tostring(position - 1)] then
      for at, metric in ipairs({'i', 'o', 'r'}) do
        local sums = redis.call('HMGET', account, metric .. 'c', metric .. 's', metric .. 'a')
        if sums[1] and item[4] >= tonumber(sums[1]) and item[4 + at] > 0 then
          local settled, acked = tonumber(sums[2]) or 0, tonumber(sums[3]) or 0
          local known = math.min(acked + item[4 + at], math.max(settled, acked))
          redis.call('HSET', account, metric .. 'a', string.format('%.0f', known))
        end
      end
    end
  end
  return items
end
