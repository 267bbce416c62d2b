-- Part: the account of one caller, hash q:{sPP}:<external id>. Fields i (input tokens), o (output tokens), r (requests) hold JSON
--   [l limit (-1 unlimited), b base: what Zion counts beyond what is acknowledged, s settled here, a of that acknowledged by Zion,
--    h held, p and e start and end of the period in Unix ms (e = 0: never ends), c since when s counts, k name of the period]
-- and for the whole: fetched (when Zion was asked), refresh (until when somebody refreshes), rolled (when a period last ended
-- here, or an operator dropped a dead letter: limits from before are asked for anew), clock (the last time seen: never run
-- backwards after a failover). At every instant b + s + h is what is used.
-- Three arrays, because thirty fields cost Lua three times as long to read.
local METRICS = {'i', 'o', 'r'}
local ARRAY = '[%d,%d,%d,%d,%d,%d,%d,%d,"%s"]'
-- Two days after its last use; prolonged by the first save of each minute only, and so a minute longer.
local ACCOUNT_LIFE_MS, MINUTE_MS = 172860000, 60000

local function month_start(day)  -- day: days since 1970-01-01; the civil calendar by eras of 400 years
  local z = day + 719468
  local doe = z % 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local month = math.floor((5 * doy + 2) / 153)
  return day - (doy - math.floor((153 * month + 2) / 5))
end

-- Start and end of the calendar period around at_ms (UTC, weeks from Monday); nil where the name has no calendar.
local function calendar(name, at_ms)
  local day = math.floor(at_ms / DAY_MS)
  local first, after
  if name == 'DAILY' then first, after = day, day + 1
  elseif name == 'WEEKLY' then first = day - (day - 4) % 7; after = first + 7
  elseif name == 'MONTHLY' then first = month_start(day); after = month_start(first + 31)
  else return nil end
  return first * DAY_MS, after * DAY_MS
end

-- The period around now after one that is over: by calendar if it kept the calendar, else by its length, else unknown (no end).
local function following(name, start, stop, now)
  local first, after = calendar(name, now)
  if first and (start == 0 or calendar(name, start) == start) then return first, after end
  local length = stop - start
  if start == 0 or length <= 0 then return stop, 0 end
  local passed = math.floor((now - stop) / length)
  return stop + passed * length, stop + (passed + 1) * length
end

-- The account, with its clock not before the last one seen and every period that is over begun anew.
local function open_account(key, now)
  local values = redis.call('HMGET', key, 'i', 'o', 'r', 'fetched', 'refresh', 'rolled', 'clock')
  local account = {
    key = key, new = not values[7], fetched = tonumber(values[4]) or 0, refresh = tonumber(values[5]) or 0,
    rolled = tonumber(values[6]) or 0, now = math.max(now, tonumber(values[7]) or 0),
  }
  account.kept = {fetched = account.fetched, refresh = account.refresh, rolled = account.rolled, clock = tonumber(values[7])}
  local sums_kept = not account.new and cjson.decode('[' .. values[1] .. ',' .. values[2] .. ',' .. values[3] .. ']')
  for at, metric in ipairs(METRICS) do
    if account.new then
      account[metric] = {l = -1, b = 0, s = 0, a = 0, h = 0, p = 0, e = 0, c = midnight(account.now), k = ''}
    else
      local v = sums_kept[at]
      local sums = {l = v[1], b = v[2], s = v[3], a = v[4], h = v[5], p = v[6], e = v[7], c = v[8], k = v[9]}
      if sums.e > 0 and account.now >= sums.e then
        sums.p, sums.e = following(sums.k, sums.p, sums.e, account.now)
        sums.b, sums.s, sums.a, sums.c = 0, 0, 0, sums.p
        account.rolled = account.now
      end
      account[metric] = sums
    end
  end
  return account
end

local function packed(sums)
  return string.format(ARRAY, sums.l, sums.b, sums.s, sums.a, sums.h, sums.p, sums.e, sums.c, sums.k)
end

local function save_account(account)
  local key, kept = account.key, account.kept
  redis.call('HSET', key, 'i', packed(account.i), 'o', packed(account.o), 'r', packed(account.r), 'clock', whole(account.now))
  if account.fetched ~= kept.fetched or account.refresh ~= kept.refresh or account.rolled ~= kept.rolled then
    redis.call('HSET', key, 'fetched', whole(account.fetched), 'refresh', whole(account.refresh), 'rolled', whole(account.rolled))
  end
  if not kept.clock or math.floor(kept.clock / MINUTE_MS) ~= math.floor(account.now / MINUTE_MS) then
    redis.call('PEXPIRE', key, ACCOUNT_LIFE_MS)
  end
end

local function remaining(sums)
  if sums.l < 0 then return -1 end
  return math.max(0, sums.l - sums.b - sums.s - sums.h)
end

local function reset_ms(account, metric)
  local stop = account[metric].e
  return stop > 0 and math.max(0, stop - account.now) or -1
end
