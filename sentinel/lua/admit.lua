-- admit: check three limits and the window of one caller, then hold all or nothing. Python: Ledger.admit, read_verdict.
-- KEYS    1 q account  2 w window of requests  3 r holds  4 z deadlines  5 d tombstone  6 v window of tokens    (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 request id  3 external id  4 e-mail  5 model  6 input tokens  7 output tokens asked
--         8 least output tokens that will do  9 lease ms  10 requests a window (-1 = no window)  11 window ms  12 sub-buckets
--         13 fresh ms  14 stale ms  15 requests of the caller at a time (0 = any number)  16 tokens a window (-1 = no window)
-- returns {code, why, granted output, then limit, remaining, reset ms of input, output, requests and of the window,
--         refresh 0|1, acknowledged input, output, requests, clock ms, then limit, remaining, reset ms of the window of tokens};
--         -1 is unlimited, or never
--         code 1 admitted (why ok|dup)  0 denied (rate|tokens|concurrency|requests|input|output)
--         2 limits must be fetched first (unknown|stale)  3 the request is settled already
-- clock   Redis TIME, never before the last of the account. A duplicate gets the earlier grant; a refusal consumes nothing.
-- cost    O(1): one hash of 7 fields, two of at most 11, five writes.
-- include: _clock
-- include: _account
-- include: _window
local REFRESH_MS = 10000
local request_id = ARGV[2]
local input, output, output_min = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local rate, window_ms, buckets = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local account = open_account(KEYS[1], read_clock(tonumber(ARGV[1])))
local now = account.now

local width_ms = window_ms / buckets
local bucket = math.floor(now / width_ms)
local rate_left, rate_reset, gone = read_window(KEYS[2], now, rate, width_ms, buckets)
local tokens = tonumber(ARGV[16])
local tokens_left, tokens_reset, tokens_gone = read_window(KEYS[6], now, tokens, width_ms, buckets)

local refresh = 0
local function reply(code, why, granted)
  local i, o, r = account.i, account.o, account.r  -- written out: a table that grows costs more than all of the rest
  return {code, why, granted, i.l, remaining(i), reset_ms(account, 'i'), o.l, remaining(o), reset_ms(account, 'o'),
    r.l, remaining(r), reset_ms(account, 'r'), rate, rate_left, rate_reset, refresh, i.a, o.a, r.a, now,
    tokens, tokens_left, tokens_reset}
end

if redis.call('EXISTS', KEYS[5]) == 1 then return reply(3, 'settled', 0) end
local earlier = redis.call('HGET', KEYS[3], request_id)
if earlier then return reply(1, 'dup', cjson.decode(earlier)[5]) end
local function refresh_once()  -- one caller of all workers and hosts asks Zion; it has this long
  if account.refresh > now then return end
  refresh = 1
  account.refresh = now + REFRESH_MS
end
if account.fetched == 0 or now - account.fetched > tonumber(ARGV[14]) then
  refresh_once()
  if refresh == 1 then save_account(account) end
  return reply(2, account.fetched == 0 and 'unknown' or 'stale', 0)
end
if now - account.fetched > tonumber(ARGV[13]) or account.fetched < account.rolled then refresh_once() end

local function refuse(why)
  if refresh == 1 then save_account(account) end  -- the clock need not be kept: nothing was consumed
  return reply(0, why, 0)
end
if rate >= 0 and rate_left < 1 then return refuse('rate') end
if tokens >= 0 and tokens_left < input + math.min(output, output_min) then return refuse('tokens') end
-- Requests held are requests in flight: each is freed by its settlement, or by the end of its lease.
if tonumber(ARGV[15]) > 0 and account.r.h >= tonumber(ARGV[15]) then return refuse('concurrency') end
if account.r.l >= 0 and remaining(account.r) < 1 then return refuse('requests') end
if account.i.l >= 0 and remaining(account.i) < input then return refuse('input') end
local granted = output
if account.o.l >= 0 and remaining(account.o) < output then granted = remaining(account.o) end
if granted < math.min(output, output_min) then return refuse('output') end
if tokens >= 0 then granted = math.min(granted, tokens_left - input) end

account.i.h = account.i.h + input
account.o.h = account.o.h + granted
account.r.h = account.r.h + 1
save_account(account)
redis.call('HSET', KEYS[3], request_id, cjson.encode({ARGV[3], ARGV[4], ARGV[5], input, granted, tokens >= 0 and bucket or -1}))
redis.call('ZADD', KEYS[4], whole(now + tonumber(ARGV[9])), request_id)
local function fill(key, passed, amount)
  if #passed > 0 then redis.call('HDEL', key, unpack(passed)) end
  -- The first of its sub-bucket prolongs the life for all of it: whoever comes last in it still counts for a whole window.
  -- A clock that stands still (failed over to a server that is behind) makes a sub-bucket longer: then each of them does.
  if redis.call('HINCRBY', key, whole(bucket), whole(amount)) == amount or account.kept.clock == now then
    redis.call('PEXPIRE', key, whole(math.ceil(window_ms + 2 * width_ms)))
  end
end
local first_reset = math.ceil((bucket + buckets + 1) * width_ms - now)
if rate >= 0 then
  fill(KEYS[2], gone, 1)
  rate_left = rate_left - 1
  if rate_reset == 0 then rate_reset = first_reset end
end
if tokens >= 0 and input + granted > 0 then
  fill(KEYS[6], tokens_gone, input + granted)
  tokens_left = tokens_left - input - granted
  if tokens_reset == 0 then tokens_reset = first_reset end
end
return reply(1, 'ok', granted)
