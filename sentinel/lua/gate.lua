-- gate: may one call go to Zion now? One answer for the whole fleet: so many calls a second, none before the time Zion named with
-- a 429, and reports only while the breaker is closed, or as its one probe. Python: Gate.ask.
-- KEYS    1 zg state  2 zg calls for callers in the last second  3 zg reports in the last second       (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 id of the call  3 kind: caller | report  4 calls a second  5 life of a probe ms
-- returns {answer, ms to wait, breaker 1 open | 0 closed}
--         answer go | probe (go, and tell what became of it)  rate | open | shut (not now)
-- clock   Redis TIME, never before the last that let a call go
-- cost    O(log calls a second). The same id again within a second gets the same place; a call that died leaves its place unused,
--         a probe that died is replaced when its life is over.
-- state: failed (JSON ids of the failures in a row), open (until when the breaker is), probe and probing (its id, until when),
-- shut (until when Zion wants no call), waiting (until when reports stand back for callers), clock
-- include: _clock
-- A second as Zion sees it: calls that left within it may arrive closer together by the difference of their ways.
local WINDOW_MS, LIFE_MS = 1050, 86400000
local id, kind, rate = ARGV[2], ARGV[3], tonumber(ARGV[4])
local state = {}
for at, value in ipairs(redis.call('HMGET', KEYS[1], 'open', 'probing', 'shut', 'waiting', 'clock')) do
  state[at] = tonumber(value) or 0
end
local open, probing, shut, waiting = state[1], state[2], state[3], state[4]
local now = math.max(read_clock(tonumber(ARGV[1])), state[5])

local function reply(answer, wait_ms) return {answer, math.ceil(wait_ms), open > 0 and 1 or 0} end

local own = kind == 'caller' and KEYS[2] or KEYS[3]
if redis.call('ZSCORE', own, id) then
  return reply(redis.call('HGET', KEYS[1], 'probe') == id and 'probe' or 'go', 0)
end
if shut > now then return reply('shut', shut - now) end
if kind == 'report' and open > now then return reply('open', open - now) end
if kind == 'report' and open > 0 and probing > now then return reply('open', probing - now) end

local counts, oldest = {}, now
for at = 2, 3 do
  redis.call('ZREMRANGEBYSCORE', KEYS[at], '-inf', whole(now - WINDOW_MS))
  counts[at] = redis.call('ZCARD', KEYS[at])
  local first = redis.call('ZRANGE', KEYS[at], 0, 0, 'WITHSCORES')
  if first[2] then oldest = math.min(oldest, tonumber(first[2])) end
end
-- Reports leave callers a quarter of each second, and all but one call of it as soon as one of them waits; callers leave that one.
local bound
if kind == 'caller' then
  bound = math.max(1, rate - 1)
else
  bound = waiting > now and 1 or math.max(1, rate - math.ceil(rate / 4))
end
if counts[kind == 'caller' and 2 or 3] >= bound or counts[2] + counts[3] >= rate then
  if kind == 'caller' then redis.call('HSET', KEYS[1], 'waiting', whole(now + WINDOW_MS)) end
  return reply('rate', oldest + WINDOW_MS - now)
end

redis.call('ZADD', own, whole(now), id)
redis.call('PEXPIRE', own, 2 * WINDOW_MS)
redis.call('HSET', KEYS[1], 'clock', whole(now))
redis.call('PEXPIRE', KEYS[1], LIFE_MS)
if kind == 'report' and open > 0 then
  redis.call('HSET', KEYS[1], 'probe', id, 'probing', whole(now + tonumber(ARGV[5])))
  return reply('probe', 0)
end
return reply('go', 0)
