-- settle: free a hold, charge what the request cost, add it to the unreported sums, once.
--         Python: Ledger.settle, Ledger.sweep, Ledger.replay.
-- KEYS    1 q account  2 r holds  3 z deadlines  4 d tombstone  5 a unreported sums  6 t settled requests  7 v window of tokens
--         (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 request id  3 external id  4 e-mail  5 model  6 input tokens  7 output tokens  8 requests
--         9 kind: truth | expired (an estimate, by the sweeper) | void (the request never was: frees, and forbids a later admit)
--         | blind (truth told again: charged where nothing is known of the request, since Redis lost it)
--         | lost (an estimate: its worker died; nothing where a hold stands, whose lease will end)
--         10 life of a tombstone ms  11 life of an expired or lost one's, and of the settled requests ms
--         12 place of the request in KEYS[6] (-1: none)
-- returns {status, fields in the unreported sums, remaining input, output, requests (-1 unlimited)}
--         status 1 applied  2 an expiry charge corrected by the difference  0 duplicate  -1 no such hold  3 a hold stands
-- clock   Redis TIME, never before the last of the account; usage belongs to the period in which it is settled
-- cost    O(1)
-- t: a bitmap by the sequence number of a worker's requests: the truth of those is in. It outlives the tombstones, so that what a
-- journal tells hours later is still told once; an estimate sets no bit, and its tombstone lives as long.
-- include: _clock
-- include: _account
-- include: _unreported
local request_id, kind, place = ARGV[2], ARGV[9], tonumber(ARGV[12])
local estimated = kind == 'expired' or kind == 'lost'
local cost = {i = tonumber(ARGV[6]), o = tonumber(ARGV[7]), r = tonumber(ARGV[8])}
local account = open_account(KEYS[1], read_clock(tonumber(ARGV[1])))

local function reply(status)
  return {status, redis.call('HLEN', KEYS[5]), remaining(account.i), remaining(account.o), remaining(account.r)}
end

-- The period start that all three metrics agree on: at least this UTC day, so that it is right even before limits are known.
local function period_start()
  return math.max(midnight(account.now), account.i.p, account.o.p, account.r.p)
end

local function charge(change, since)
  for _, metric in ipairs(METRICS) do
    if since >= account[metric].c then account[metric].s = account[metric].s + change[metric] end
  end
end

local function bury_stone(field)
  local name = estimated and 'expired' or kind
  redis.call('SET', KEYS[4], cjson.encode({name, cost.i, cost.o, cost.r, field}), 'PX', estimated and ARGV[11] or ARGV[10])
  if place >= 0 and not estimated then
    redis.call('SETBIT', KEYS[6], place, 1)
    redis.call('PEXPIRE', KEYS[6], ARGV[11])
  end
end

local stone = redis.call('GET', KEYS[4])
if stone then
  local known = cjson.decode(stone)
  if known[1] ~= 'expired' or estimated then return reply(0) end
  local change = {i = cost.i - known[2], o = cost.o - known[3], r = cost.r - known[4]}
  local charged = cjson.decode(known[5])
  local since = charged[4]
  charge(change, since)
  local field = known[5]
  if redis.call('HEXISTS', KEYS[5], field) == 0 and since >= math.max(account.i.c, account.o.c, account.r.c) then
    -- Its charge is sealed: in the same period, so the difference may net with what comes today.
    field = cjson.encode({charged[1], charged[2], charged[3], period_start()})
  end
  add_unreported(KEYS[5], field, change)
  save_account(account)
  bury_stone(field)
  return reply(2)
end

local hold = redis.call('HGET', KEYS[2], request_id)
if not hold and place >= 0 and redis.call('GETBIT', KEYS[6], place) == 1 then return reply(0) end
if hold then
  if kind == 'lost' then return reply(3) end
  local held = cjson.decode(hold)
  account.i.h = math.max(0, account.i.h - held[4])
  account.o.h = math.max(0, account.o.h - held[5])
  account.r.h = math.max(0, account.r.h - 1)
  -- The window of tokens counted what was held; where that part of it still counts, it counts the truth from now on.
  local bucket = whole(held[6])
  if held[6] >= 0 and redis.call('HEXISTS', KEYS[7], bucket) == 1 then
    redis.call('HINCRBY', KEYS[7], bucket, whole(cost.i + cost.o - held[4] - held[5]))
  end
  redis.call('HDEL', KEYS[2], request_id, request_id .. ':output')
  redis.call('ZREM', KEYS[3], request_id)
elseif kind == 'truth' or kind == 'expired' then
  return reply(-1)
end
local since = period_start()
local field = cjson.encode({ARGV[3], ARGV[4], ARGV[5], since})
if cost.i ~= 0 or cost.o ~= 0 or cost.r ~= 0 then
  charge(cost, since)
  add_unreported(KEYS[5], field, cost)
end
if hold or kind == 'blind' or kind == 'lost' then save_account(account) end
bury_stone(field)
return reply(1)
