-- take: the next report to Zion: a sealed batch that is due again, else a new one out of the unreported sums. Python: Ledger.take.
-- KEYS    1 a unreported sums  2 b sealed batches  3 s their next attempt       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 id for a new batch  3 claim ms: until then nobody else gets it  4 at most so many items
-- returns {batch id ('' when there is none), attempt, time stamp ms, fields left in the unreported sums, JSON items}
--         an item: [external id, e-mail, model, period start ms, input, output, requests], never negative, never all zero
-- clock   Redis TIME; a step backwards delays an attempt by that step
-- cost    O(items). All items of a batch are of one period start, so that its one time stamp lies in the period of each.
-- include: _clock
local CREDIT_LIFE_MS = 40 * DAY_MS
local now = read_clock(tonumber(ARGV[1]))
local id, items_max = ARGV[2], tonumber(ARGV[4])

local function hand_out(batch_id)
  local sealed = cjson.decode(redis.call('HGET', KEYS[2], batch_id .. ':head'))
  redis.call('ZADD', KEYS[3], whole(now + tonumber(ARGV[3])), batch_id)
  local attempt = redis.call('HINCRBY', KEYS[2], batch_id .. ':attempt', 1)
  return {batch_id, attempt, sealed[1], redis.call('HLEN', KEYS[1]), redis.call('HGET', KEYS[2], batch_id)}
end

if redis.call('HEXISTS', KEYS[2], id) == 1 then return hand_out(id) end  -- the same call, sent again
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(now), 'LIMIT', 0, 1)
if due[1] then return hand_out(due[1]) end

local sums = redis.call('HRANDFIELD', KEYS[1], 2 * items_max, 'WITHVALUES')
local items, period = {}, nil
for at = 1, #sums, 2 do
  if #items == items_max then break end
  local field = sums[at]
  local item = cjson.decode(field)
  local left, any = {}, false
  for number in string.gmatch(sums[at + 1], '-?%d+') do
    number = tonumber(number)
    item[#item + 1] = math.max(0, number)
    left[#left + 1] = whole(math.min(0, number))
    any = any or number > 0
  end
  if any and (period == nil or period == item[4]) then
    period = item[4]
    items[#items + 1] = item
    local rest = table.concat(left, '|')
    if string.find(rest, '[1-9]') then redis.call('HSET', KEYS[1], field, rest) else redis.call('HDEL', KEYS[1], field) end
  elseif not any and item[4] < now - CREDIT_LIFE_MS then
    redis.call('HDEL', KEYS[1], field)  -- a credit that nothing came to net with
  end
end
if #items == 0 then return {'', 0, 0, redis.call('HLEN', KEYS[1]), '[]'} end
local stamp = now
if midnight(now) > period then stamp = math.max(period, midnight(period) + DAY_MS - 1) end
redis.call('HSET', KEYS[2], id, cjson.encode(items), id .. ':head', cjson.encode({stamp}))
return hand_out(id)
