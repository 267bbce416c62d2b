-- Part: what the end of a request changes in an account, and how long it is remembered that it is settled. Needs _account, _window,
-- _holds.
local SETTLED_LIFE_MS = 172800000

-- A hold, packed, is free. The window of tokens counted what was held; where that part of it still counts, it counts the truth.
local function free_hold(account, hold, input, output)
  local held_input, held_output, bucket = struct.unpack(HOLD, hold)
  local i, o, r = account.i, account.o, account.r
  i.h, o.h, r.h = math.max(0, i.h - held_input), math.max(0, o.h - held_output), math.max(0, r.h - 1)
  if bucket >= 0 then account.v = changed_window(account.v, bucket, input + output - held_input - held_output) end
end

local function charge(account, since, input, output, requests)
  local i, o, r = account.i, account.o, account.r
  if since >= i.c then i.s = i.s + input end
  if since >= o.c then o.s = o.s + output end
  if since >= r.c then r.s = r.s + requests end
end

-- A bitmap of settled requests lives two days after its last bit; prolonged once a minute.
local function keep_settled(key)
  if redis.call('PTTL', key) < SETTLED_LIFE_MS then redis.call('PEXPIRE', key, SETTLED_LIFE_MS + MINUTE_MS) end
end
