-- claim_batch: the next report to Zion: a sealed batch that is due again, else a new one out of the unreported sums. Python: Ledger.claim_batch.
-- KEYS    1 a unreported sums  2 b sealed batches  3 s their next attempt  4 n what callers are called by now  5 p run of Redis
--         (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 id of this call, with which that of a new batch begins  3 claim ms: until then nobody else gets it
--         4 at most so many items  5 at most so many sealed batches: above it no new one, the sums wait
--         6 format of a new one: unified | per_limit  7 the run of Redis that the caller has known first ('' where it knows none)
-- returns {batch id ('' when there is none), attempt, time stamp ms, fields left in the unreported sums, JSON items, format,
--         JSON parts as in part ('' where it has not begun to go one by one), 1 where an earlier attempt ended without anybody
--         knowing how}
--         an item: [external id, e-mail, model, period start ms, input, output, requests], never negative, never all zero, and
--         [external id, e-mail] under which Zion is told of it, where these are others by now
-- clock   Redis TIME; a step backwards delays an attempt by that step
-- cost    O(items + sealed batches, which are few). All items of a batch are of one period start, so that its one time stamp lies in the
--         period of each, and of one format: Zion knows who has no e-mail by the external id alone, which is said per limit.
-- b: fields "<batch id>": JSON items, ":head": JSON [time stamp, format], ":attempt", ":parts", ":sending": the call that has it
-- now, ":lost": whether one before never said what became of it
-- include: _clock
-- include: _names
-- include: _unreported
-- include: _run
local CREDIT_LIFE_MS = 40 * DAY_MS
-- An item is up to three increments per limit, and Zion takes 1000 in a batch.
local PER_LIMIT_ITEMS_MAX = 333
local now = read_clock(tonumber(ARGV[1]))
local id, items_max = ARGV[2], tonumber(ARGV[4])
local from = sealing_from(KEYS[5], KEYS[3], now, ARGV[7])

local function hand_out(batch_id)
  local function field(name) return batch_id .. ':' .. name end
  local head = cjson.decode(redis.call('HGET', KEYS[2], field('head')))
  redis.call('ZADD', KEYS[3], whole(now + tonumber(ARGV[3])), batch_id)
  local sending = redis.call('HGET', KEYS[2], field('sending'))
  if sending ~= id then
    if sending then redis.call('HSET', KEYS[2], field('lost'), 1) end
    redis.call('HSET', KEYS[2], field('sending'), id)
    redis.call('HINCRBY', KEYS[2], field('attempt'), 1)
  end
  local items, attempt, parts, lost =
    unpack(redis.call('HMGET', KEYS[2], batch_id, field('attempt'), field('parts'), field('lost')))
  return {batch_id, tonumber(attempt), head[1], redis.call('HLEN', KEYS[1]), items, head[2] or ARGV[6], parts or '', lost and 1 or 0}
end

local function nothing() return {'', 0, 0, redis.call('HLEN', KEYS[1]), '[]', '', '', 0} end

for _, batch_id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  -- The same call, sent again.
  if redis.call('HGET', KEYS[2], batch_id .. ':sending') == id then return hand_out(batch_id) end
end
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(now), 'LIMIT', 0, 1)
if due[1] then return hand_out(due[1]) end
if from > now or redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[5]) then return nothing() end

-- Where only the e-mail is another, a sum becomes one of the present name: what is negative nets with nothing else.
local function rename(sums)
  local any = false
  for at = 1, #sums, 2 do
    local item = cjson.decode(sums[at])
    local external_id, email = present(KEYS[4], item[1], item[2])
    if external_id == item[1] and email ~= item[2] then
      any = true
      local i, o, r = string.match(sums[at + 1], '^(-?%d+)|(-?%d+)|(-?%d+)$')
      redis.call('HDEL', KEYS[1], sums[at])
      local field = unreported_field(written_who(external_id, email, item[3]), item[4])
      add_unreported(KEYS[1], field, tonumber(i), tonumber(o), tonumber(r))
    end
  end
  return any
end

local function format_for(email)
  if string.find(email, '%S') then return ARGV[6] end
  return 'per_limit'
end

local function sample() return redis.call('HRANDFIELD', KEYS[1], 2 * items_max, 'WITHVALUES') end

local sums, renamed = sample(), redis.call('EXISTS', KEYS[4]) == 1
if renamed and rename(sums) then sums = sample() end
local items, period, format = {}, nil, nil
for at = 1, #sums, 2 do
  if #items == items_max or (format == 'per_limit' and #items == PER_LIMIT_ITEMS_MAX) then break end
  local field = sums[at]
  local item = cjson.decode(field)
  local external_id, email = item[1], item[2]
  if renamed then external_id, email = present(KEYS[4], external_id, email) end
  local left, any = {}, false
  for number in string.gmatch(sums[at + 1], '-?%d+') do
    number = tonumber(number)
    item[#item + 1] = math.max(0, number)
    left[#left + 1] = whole(math.min(0, number))
    any = any or number > 0
  end
  if any and (period == nil or (period == item[4] and format == format_for(email))) then
    period, format = item[4], format_for(email)
    if external_id ~= item[1] or email ~= item[2] then item[#item + 1] = {external_id, email} end
    items[#items + 1] = item
    local rest = table.concat(left, '|')
    if string.find(rest, '[1-9]') then redis.call('HSET', KEYS[1], field, rest) else redis.call('HDEL', KEYS[1], field) end
  elseif not any and item[4] < now - CREDIT_LIFE_MS then
    redis.call('HDEL', KEYS[1], field)  -- a credit that nothing came to net with
  end
end
if #items == 0 then return nothing() end
local stamp = now
if midnight(now) > period then stamp = math.max(period, midnight(period) + DAY_MS - 1) end
-- With the time in it: a call that comes very late, when the batch of its twin is done, must not seal another under the same id.
local batch_id = id .. whole(now)
redis.call('HSET', KEYS[2], batch_id, cjson.encode(items), batch_id .. ':head', cjson.encode({stamp, format}))
return hand_out(batch_id)
