-- admit: check three limits and the windows of one caller, then hold all or nothing. Python: Ledger.ask, read_verdict.
-- KEYS    1 q account  2 r holds  3 z deadlines  4 d tombstone  5 t settled requests  6 w unfinished work of the caller, only for
--         more of it    (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 request id  3 JSON [external id, e-mail, model]  4 input tokens  5 output tokens asked
--         6 least output tokens that will do  7 place of the request in KEYS[5] (-1: none)  8 rules, packed: lease ms, requests a
--         window (-1 = no window), window ms, fresh ms, stale ms, requests of the caller at a time (0 = any number), tokens a
--         window (-1 = no window)  9 least input tokens that will do (absent: all)  10 how much unfinished work the caller may have
--         11 attempts of the caller that were refused before this: they count in the window of requests where this one does
-- returns numbers of 8 bytes, packed: answer, granted output (of a refusal: for how many ms it stands), then limit, remaining,
--         reset ms of input, output, requests, of the window and of the window of tokens, refresh 0|1, acknowledged input, output,
--         requests, clock ms, granted input; -1 is unlimited, never
--         answer 0 admitted  1 admitted before  2 settled already
--         3 limits must be fetched first: unknown, 4 stale
--         denied by 5 rate  6 tokens  7 concurrency  8 requests  9 input  10 output  11 unfinished work
-- stands  A refusal stands while nothing that gives back could end it: every other request of this caller is refused as well, and
--         may be so without asking. That is so of the window of requests, which only time empties, and of requests that are all
--         spent; never of what is held, nor of what depends on the size of a request.
-- clock   Redis TIME, never before the last of the account. A duplicate gets the earlier grant; a refusal consumes nothing.
-- cost    O(1): one string of 400 bytes, three writes; of work, O(unfinished work of the caller)
-- w:{sPP}:<external id>, a set of request ids: those of them count that have a hold.
-- include: _clock
-- include: _account
-- include: _window
-- include: _holds
local REFRESH_MS = 10000
-- No longer than this: then new limits, the truth of what was charged by an estimate, other rules, and an account that was lost are
-- seen; and limits that age are asked for anew.
local STANDS_MS = 1000
local OK, DUPLICATE, SETTLED, UNKNOWN, STALE, RATE, TOKENS, CONCURRENCY, REQUESTS, INPUT, OUTPUT = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local WORK, WORK_LIFE_MS = 11, 259200000
local request_id, input, output, output_min = ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if output_min > output then output_min = output end
local input_min, works_max, works = tonumber(ARGV[9] or ARGV[4]), tonumber(ARGV[10] or 0), 0
local attempts = tonumber(ARGV[11] or 0)
local lease_ms, rate, window_ms, fresh_ms, stale_ms, concurrency, tokens = struct.unpack('<ddddddd', ARGV[8])
local account = open_account(KEYS[1], read_clock(tonumber(ARGV[1])))
local now, i, o, r = account.now, account.i, account.o, account.r

local width_ms = window_ms / BUCKETS
local rates, rate_left, rate_reset, spent, tokens_left, tokens_reset = nil, -1, -1, nil, -1, -1
local first_reset = math.ceil((math.floor(now / width_ms) + BUCKETS + 1) * width_ms - now)
if rate >= 0 then
  rates, rate_left, rate_reset = read_window(account.w, now, rate, width_ms)
  if attempts > 0 then
    rate_left = math.max(rate_left - attempts, 0)
    if rate_reset == 0 then rate_reset = first_reset end
  end
end
if tokens >= 0 then spent, tokens_left, tokens_reset = read_window(account.v, now, tokens, width_ms) end

if KEYS[6] then
  for _, name in ipairs(redis.call('SMEMBERS', KEYS[6])) do
    if redis.call('HEXISTS', KEYS[2], name) == 1 then works = works + 1 else redis.call('SREM', KEYS[6], name) end
  end
end

-- One way down to one reply, without functions: each would be made anew for every request, with all it refers to.
local place, answer, granted, refresh, save = tonumber(ARGV[7]), OK, output, 0, false
if (place >= 0 and redis.call('GETBIT', KEYS[5], place) == 1) or redis.call('EXISTS', KEYS[4]) == 1 then
  answer = SETTLED
elseif account.fetched == 0 then answer = UNKNOWN
elseif now - account.fetched > stale_ms then answer = STALE
elseif rate >= 0 and rate_left < 1 then answer = RATE
elseif tokens >= 0 and tokens_left < input_min + output_min then answer = TOKENS
-- Requests held are requests in flight: each is freed by its settlement, or by the end of its lease.
elseif concurrency > 0 and r.h >= concurrency then answer = CONCURRENCY
elseif r.l >= 0 and remaining(r) < 1 then answer = REQUESTS
elseif i.l >= 0 and remaining(i) < input_min then answer = INPUT
elseif KEYS[6] and works >= works_max then answer = WORK
else
  if i.l >= 0 then input = math.min(input, remaining(i)) end
  if tokens >= 0 then input = math.min(input, tokens_left - output_min) end
  if o.l >= 0 then granted = math.min(granted, remaining(o)) end
  if granted < output_min then answer = OUTPUT end
  if tokens >= 0 then granted = math.min(granted, tokens_left - input) end
end

if answer ~= SETTLED then
  local hold = answer == OK and struct.pack(HOLD, input, granted, spent and spent[1] or -1, 0) .. ARGV[3]
  local earlier = (not hold or redis.call('HSETNX', KEYS[2], request_id, hold) == 0) and redis.call('HGET', KEYS[2], request_id)
  if earlier then
    answer, input, granted = DUPLICATE, struct.unpack(HOLD, earlier)
  else
    -- One caller of all workers and hosts asks Zion; it has this long.
    local old = answer == UNKNOWN or answer == STALE or now - account.fetched > fresh_ms or account.fetched < account.rolled
    if old and account.refresh <= now then
      refresh, account.refresh = 1, now + REFRESH_MS
    end
    -- Of a refusal the clock need not be kept: nothing was consumed.
    save = answer == OK or refresh == 1
  end
end

if answer == OK then
  i.h, o.h, r.h = i.h + input, o.h + granted, r.h + 1
  if rates then
    rates[2], rate_left = rates[2] + 1 + attempts, rate_left - 1
    if rate_reset == 0 then rate_reset = first_reset end
    account.w = struct.pack(WINDOW, unpack(rates))
  end
  if spent and input + granted > 0 then
    spent[2], tokens_left = spent[2] + input + granted, tokens_left - input - granted
    if tokens_reset == 0 then tokens_reset = first_reset end
    account.v = struct.pack(WINDOW, unpack(spent))
  end
  redis.call('ZADD', KEYS[3], whole(now + lease_ms), request_id)
  if KEYS[6] then
    redis.call('SADD', KEYS[6], request_id)
    redis.call('PEXPIRE', KEYS[6], WORK_LIFE_MS)
  end
elseif answer ~= DUPLICATE then
  input, granted = input_min, 0
  -- Of the ms that now is, some part is over.
  if answer == RATE then granted = math.min(STANDS_MS, rate_reset - 1)
  elseif answer == REQUESTS and r.l - r.b - r.s < 1 then granted = r.e > 0 and math.min(STANDS_MS, r.e - now - 1) or STANDS_MS end
end
if save then save_account(account) end
return struct.pack('<i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8i8', answer, granted,
  i.l, remaining(i), i.e > 0 and i.e - now or -1, o.l, remaining(o), o.e > 0 and o.e - now or -1,
  r.l, remaining(r), r.e > 0 and r.e - now or -1, rate, rate_left, rate_reset, tokens, tokens_left, tokens_reset,
  refresh, i.a, o.a, r.a, now, input)
