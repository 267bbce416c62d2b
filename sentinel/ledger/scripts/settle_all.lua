-- settle_all: what settle does, for requests of one worker that ended together and as usual: their holds stand, and their figures
--         are the truth. What is not so is left as it is, for settle. Python: Ledger.settle_all.
-- KEYS    1 r holds  2 z deadlines  3 a unreported sums  4 t settled requests  5… q account of each payer    (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 what their ids begin with  3 number of the request whose place in KEYS[4] is 0  4 the requests,
--         packed, four numbers of 8 bytes each: payer (1…), place in KEYS[4], input tokens, output tokens  5… JSON [external id,
--         e-mail, model] of each payer
-- returns {a character for each request: 1 applied | 9 nothing done, fields in the unreported sums}
-- clock   Redis TIME, never before the last of each account; usage belongs to the period in which it is settled
-- cost    O(requests); an account is read and written for each payer, not for each request
-- include: _clock
-- include: _account
-- include: _window
-- include: _holds
-- include: _ended
-- include: _unreported
local now, begin, first, packed = read_clock(tonumber(ARGV[1])), ARGV[2], tonumber(ARGV[3]), ARGV[4]
local accounts, sums, ended, said = {}, {}, {}, {}

for at = 1, #packed, 32 do
  local payer, place, input, output = struct.unpack('<dddd', packed, at)
  local request_id = begin .. string.format('%x', first + place)
  local hold = redis.call('HGET', KEYS[1], request_id)
  if not hold then
    said[#said + 1] = '9'
  else
    local key = KEYS[4 + payer]
    local account = accounts[key]
    if not account then
      account = open_account(key, now)
      accounts[key] = account
    end
    local since = period_start(account)
    free_hold(account, hold, input, output)
    charge(account, since, input, output, 1)
    local sum = sums[payer]
    if not sum then
      sum = {0, 0, 0, since}
      sums[payer] = sum
    end
    sum[1], sum[2], sum[3] = sum[1] + input, sum[2] + output, sum[3] + 1
    redis.call('SETBIT', KEYS[4], place, 1)
    ended[#ended + 1] = request_id
    said[#said + 1] = '1'
  end
end

if #ended > 0 then
  redis.call('HDEL', KEYS[1], unpack(ended))
  redis.call('ZREM', KEYS[2], unpack(ended))
  for _, account in pairs(accounts) do save_account(account) end
  for payer, sum in pairs(sums) do
    add_unreported(KEYS[3], unreported_field(ARGV[4 + payer], sum[4]), sum[1], sum[2], sum[3])
  end
  keep_settled(KEYS[4])
end
return {table.concat(said), redis.call('HLEN', KEYS[3])}
