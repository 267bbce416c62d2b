-- Part: the account of one caller, string q:{sPP}:<external id>, packed by `struct` because Lua reads that five times as fast as
-- a hash of JSON. First for the whole: the clock (the last time seen: never run backwards after a failover), fetched (when Zion
-- was asked), refresh (until when somebody refreshes), rolled (when a period last ended here, or an operator dropped a dead
-- letter: limits from before are asked for anew). Then for each of i (input tokens), o (output tokens), r (requests):
--   l limit (-1 unlimited), b base: what Zion counts beyond what is acknowledged, s settled here, a of that acknowledged by Zion,
--   h held, p and e start and end of the period in Unix ms (e = 0: never ends), c since when s counts
-- then the names of their three periods, k; at last the windows of requests and of tokens, w and v (_window).
-- At every instant b + s + h is what is used.
local METRICS = {'i', 'o', 'r'}
local FORMAT = '<dddd' .. 'dddddddd' .. 'dddddddd' .. 'dddddddd' .. 'sss' .. 'Bc0Bc0'
-- Two days after its last use; prolonged by the first save of each minute only, and so a minute longer.
local ACCOUNT_LIFE_MS, MINUTE_MS = 172860000, 60000

-- Start and end of the calendar period around at_ms (UTC, weeks from Monday); nil where the name has no calendar.
local function calendar(name, at_ms)
  local function month_start(day)  -- day: days since 1970-01-01; the civil calendar by eras of 400 years
    local z = day + 719468
    local doe = z % 146097
    local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
    local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
    local month = math.floor((5 * doy + 2) / 153)
    return day - (doy - math.floor((153 * month + 2) / 5))
  end
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

local function begin_anew(account)
  for _, metric in ipairs(METRICS) do
    local sums = account[metric]
    if sums.e > 0 and account.now >= sums.e then
      sums.p, sums.e = following(sums.k, sums.p, sums.e, account.now)
      sums.b, sums.s, sums.a, sums.c = 0, 0, 0, sums.p
      account.rolled = account.now
    end
  end
end

-- The account, with its clock not before the last one seen and every period that is over begun anew.
local function open_account(key, now)
  local value = redis.call('GET', key)
  if not value then
    local function nothing() return {l = -1, b = 0, s = 0, a = 0, h = 0, p = 0, e = 0, c = midnight(now), k = ''} end
    return {
      key = key, new = true, now = now, seen = 0, fetched = 0, refresh = 0, rolled = 0, w = '', v = '',
      i = nothing(), o = nothing(), r = nothing(),
    }
  end
  local seen, fetched, refresh, rolled, il, ib, is, ia, ih, ip, ie, ic, ol, ob, os, oa, oh, op, oe, oc,
    rl, rb, rs, ra, rh, rp, re, rc, ik, ok, rk, w, v = struct.unpack(FORMAT, value)
  if seen > now then now = seen end
  local account = {
    key = key, now = now, seen = seen, fetched = fetched, refresh = refresh, rolled = rolled, w = w, v = v,
    i = {l = il, b = ib, s = is, a = ia, h = ih, p = ip, e = ie, c = ic, k = ik},
    o = {l = ol, b = ob, s = os, a = oa, h = oh, p = op, e = oe, c = oc, k = ok},
    r = {l = rl, b = rb, s = rs, a = ra, h = rh, p = rp, e = re, c = rc, k = rk},
  }
  if (ie > 0 and now >= ie) or (oe > 0 and now >= oe) or (re > 0 and now >= re) then begin_anew(account) end
  return account
end

local function save_account(account)
  local now, i, o, r = account.now, account.i, account.o, account.r
  local value = struct.pack(FORMAT, now, account.fetched, account.refresh, account.rolled,
    i.l, i.b, i.s, i.a, i.h, i.p, i.e, i.c, o.l, o.b, o.s, o.a, o.h, o.p, o.e, o.c, r.l, r.b, r.s, r.a, r.h, r.p, r.e, r.c,
    i.k, o.k, r.k, #account.w, account.w, #account.v, account.v)
  if math.floor(account.seen / MINUTE_MS) == math.floor(now / MINUTE_MS) then
    redis.call('SET', account.key, value, 'KEEPTTL')
  else
    redis.call('SET', account.key, value, 'PX', ACCOUNT_LIFE_MS)
  end
end

local function remaining(sums)
  if sums.l < 0 then return -1 end
  local left = sums.l - sums.b - sums.s - sums.h
  return left > 0 and left or 0
end

-- The period start that all three metrics agree on: at least this UTC day, so that it is right even before limits are known.
local function period_start(account)
  return math.max(midnight(account.now), account.i.p, account.o.p, account.r.p)
end
