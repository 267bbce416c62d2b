-- settle: free a hold, charge what the request cost, add it to the unreported sums, once.
--         Python: Ledger.settle, Ledger.expire_holds, Ledger.replay.
-- KEYS    1 q account  2 r holds  3 z deadlines  4 d tombstone  5 a unreported sums  6 t settled requests    (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 request id  3 JSON [external id, e-mail, model]  4 input tokens  5 output tokens  6 requests
--         7 kind: truth | expired (an estimate, by the sweeper) | void (the request never was: frees, and forbids a later admit)
--         | blind (truth told again: charged where nothing is known of the request, since Redis lost it)
--         | lost (an estimate: its worker died; nothing where a hold stands, whose lease will end)
--         8 place of the request in KEYS[6] (-1: none)
-- returns {status, fields in the unreported sums}
--         status 1 applied  2 an expiry charge corrected by the difference  0 duplicate  -1 no such hold  3 a hold stands
-- clock   Redis TIME, never before the last of the account; usage belongs to the period in which it is settled
-- cost    O(1)
-- t: a bitmap by the sequence number of a worker's requests: the truth of those is in.
-- d: a tombstone, JSON [kind, input, output, requests, unreported field], only where no bit can say it: of an estimate, which the
-- truth will correct, and of an id that is not a worker's. While a hold stands there is neither: admit refuses what has one.
-- include: _clock
-- include: _account
-- include: _window
-- include: _holds
-- include: _ended
-- include: _unreported
local STONE_LIFE_MS = 600000
local request_id, kind, place = ARGV[2], ARGV[7], tonumber(ARGV[8])
local input, output, requests = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local estimated = kind == 'expired' or kind == 'lost'

-- The truth of what was charged by an estimate; the field of the unreported sums that it went to.
local function correct(account, stone, input, output, requests)
  local field = stone[5]
  local charged = cjson.decode(field)
  local since, i, o, r = charged[4], input - stone[2], output - stone[3], requests - stone[4]
  charge(account, since, i, o, r)
  if redis.call('HEXISTS', KEYS[5], field) == 0 and since >= math.max(account.i.c, account.o.c, account.r.c) then
    -- Its charge is sealed: in the same period, so the difference may net with what comes today.
    field = unreported_field(ARGV[3], period_start(account))
  end
  add_unreported(KEYS[5], field, i, o, r)
  save_account(account)
  redis.call('DEL', KEYS[4])
  return field
end

local hold, status, field = redis.call('HGET', KEYS[2], request_id), 1, nil
local account = open_account(KEYS[1], read_clock(tonumber(ARGV[1])))
if hold then
  if kind == 'lost' then status = 3 end
elseif place >= 0 and redis.call('GETBIT', KEYS[6], place) == 1 then
  status = 0
else
  local stone = redis.call('GET', KEYS[4])
  if stone then
    stone = cjson.decode(stone)
    if stone[1] ~= 'expired' or estimated then
      status = 0
    else
      status, field = 2, correct(account, stone, input, output, requests)
    end
  elseif kind == 'truth' or kind == 'expired' then
    status = -1
  end
end

if status == 1 then
  if hold then
    free_hold(account, hold, input, output)
    redis.call('HDEL', KEYS[2], request_id)
    redis.call('ZREM', KEYS[3], request_id)
  end
  local since = period_start(account)
  field = unreported_field(ARGV[3], since)
  if input ~= 0 or output ~= 0 or requests ~= 0 then
    charge(account, since, input, output, requests)
    add_unreported(KEYS[5], field, input, output, requests)
  end
  if hold or kind ~= 'void' then save_account(account) end
end

if field and (place < 0 or estimated) then
  local stone = cjson.encode({estimated and 'expired' or kind, input, output, requests, field})
  redis.call('SET', KEYS[4], stone, 'PX', estimated and SETTLED_LIFE_MS or STONE_LIFE_MS)
elseif field then
  redis.call('SETBIT', KEYS[6], place, 1)
  keep_settled(KEYS[6])
end
return {status, redis.call('HLEN', KEYS[5])}
