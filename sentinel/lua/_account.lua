-- Part: the account of one caller, hash q:{sPP}:<external id>. For each metric (i input tokens, o output tokens, r requests):
--   l limit (-1 unlimited)  b base: what Zion counts beyond what is acknowledged  s settled here  a of that acknowledged by Zion
--   h held  p, e start and end of the period in Unix ms (e = 0: never ends)  k name of the period  c since when s counts
-- and for the whole: fetched (when Zion was asked), refresh (until when somebody refreshes), rolled (when a period last ended
-- here), clock (the last time seen: never run backwards after a failover). At every instant b + s + h is what is used.
local METRICS = {'i', 'o', 'r'}
local NUMBERS = {'l', 'b', 's', 'a', 'h', 'p', 'e', 'c'}
local WHOLE = {'fetched', 'refresh', 'rolled', 'clock'}
local ACCOUNT_LIFE_MS = 172800000

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
  local names = {}
  for _, metric in ipairs(METRICS) do
    for _, field in ipairs(NUMBERS) do names[#names + 1] = metric .. field end
    names[#names + 1] = metric .. 'k'
  end
  for _, field in ipairs(WHOLE) do names[#names + 1] = field end
  local values = redis.call('HMGET', key, unpack(names))
  local account, at = {key = key, changes = {}}, 1
  for _, metric in ipairs(METRICS) do
    local sums = {}
    for _, field in ipairs(NUMBERS) do sums[field] = tonumber(values[at]) or 0; at = at + 1 end
    sums.k = values[at] or ''; at = at + 1
    account[metric] = sums
  end
  for _, field in ipairs(WHOLE) do account[field] = tonumber(values[at]) or 0; at = at + 1 end
  local new = account.clock == 0
  account.now = math.max(now, account.clock)
  account.put = function(metric, field, value)
    account[metric][field] = value
    account.changes[metric .. field] = field == 'k' and value or whole(value)
  end
  account.note = function(field, value)
    account[field] = value
    account.changes[field] = whole(value)
  end
  for _, metric in ipairs(METRICS) do
    local sums = account[metric]
    if new then
      account.put(metric, 'l', -1)
      account.put(metric, 'c', midnight(account.now))
    elseif sums.e > 0 and account.now >= sums.e then
      local start, stop = following(sums.k, sums.p, sums.e, account.now)
      for field, value in pairs({p = start, e = stop, c = start, b = 0, s = 0, a = 0}) do account.put(metric, field, value) end
      account.note('rolled', account.now)
    end
  end
  return account
end

local function save_account(account)
  if next(account.changes) == nil then return end
  account.note('clock', account.now)
  local pairs_flat = {}
  for field, value in pairs(account.changes) do
    pairs_flat[#pairs_flat + 1] = field
    pairs_flat[#pairs_flat + 1] = value
  end
  redis.call('HSET', account.key, unpack(pairs_flat))
  redis.call('PEXPIRE', account.key, ACCOUNT_LIFE_MS)
end

local function remaining(sums)
  if sums.l < 0 then return -1 end
  return math.max(0, sums.l - sums.b - sums.s - sums.h)
end

local function reset_ms(account, metric)
  local stop = account[metric].e
  return stop > 0 and math.max(0, stop - account.now) or -1
end
