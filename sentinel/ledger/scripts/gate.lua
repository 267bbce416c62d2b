-- gate: may one call go to Zion now? One answer for the whole fleet: so many calls a second, of which each kind of call has some of
-- its own; none before the time Zion named with a 429; and reports only while the breaker is closed, or as its one probe.
-- Python: Gate.ask.
-- KEYS    1 zg state  2 zg calls for known callers in the last second  3 zg reports  4 zg never-seen tokens     (one hash tag)
-- ARGV    1 now_ms (0 = TIME)  2 id of the call  3 kind: known | report | new  4 calls a second  5 life of a probe ms
-- returns {answer, ms to wait, breaker 1 open | 0 closed}
--         answer go | probe (go, and tell what became of it)  rate | open | shut (not now)
-- clock   Redis TIME, never before the last that let a call go
-- cost    O(log calls a second). The same id again within a second gets the same place; a call that died leaves its place unused,
--         a probe that died is replaced when its life is over.
-- state: failed (JSON ids of the failures in a row), open (until when the breaker is), probe and probing (its id, until when),
-- shut (until when Zion wants no call), known and new (until when others stand back for such calls), clock
-- include: _clock
-- A second as Zion sees it: calls that left within it may arrive closer together by the difference of their ways.
local WINDOW_MS, LIFE_MS = 1050, 86400000
local id, kind, rate = ARGV[2], ARGV[3], tonumber(ARGV[4])
local state = {}
for at, value in ipairs(redis.call('HMGET', KEYS[1], 'open', 'probing', 'shut', 'known', 'new', 'clock')) do
  state[at] = tonumber(value) or 0
end
local open, probing, shut, known_waits, new_waits = state[1], state[2], state[3], state[4], state[5]
local now = math.max(read_clock(tonumber(ARGV[1])), state[6])

local function reply(answer, wait_ms) return {answer, math.ceil(wait_ms), open > 0 and 1 or 0} end

local own = KEYS[kind == 'known' and 2 or kind == 'report' and 3 or 4]
if redis.call('ZSCORE', own, id) then
  return reply(redis.call('HGET', KEYS[1], 'probe') == id and 'probe' or 'go', 0)
end
if shut > now then return reply('shut', shut - now) end
if kind == 'report' and open > now then return reply('open', open - now) end
if kind == 'report' and open > 0 and probing > now then return reply('open', probing - now) end

-- What each kind has of its own: nobody else takes it, used or not. Of one or two calls a second nobody has any.
local function part(of) return rate < 3 and 0 or math.max(1, math.floor(rate / of)) end
local parts = {[KEYS[2]] = part(4), [KEYS[3]] = part(4), [KEYS[4]] = part(10)}
local taken, count, oldest = 0, 0, now
for at = 2, 4 do
  local place = KEYS[at]
  redis.call('ZREMRANGEBYSCORE', place, '-inf', whole(now - WINDOW_MS))
  local calls = redis.call('ZCARD', place)
  if place == own then
    count, taken = calls, taken + calls
  else
    taken = taken + math.max(calls, parts[place])
  end
  local first = redis.call('ZRANGE', place, 0, 0, 'WITHSCORES')
  if first[2] then oldest = math.min(oldest, tonumber(first[2])) end
end
-- Who is not first keeps to its own as soon as those before it wait: known callers, then never-seen tokens, then reports.
local stands_back = kind ~= 'known' and known_waits > now or kind == 'report' and new_waits > now
if taken >= rate or stands_back and count >= math.max(1, parts[own]) then
  if kind ~= 'report' then redis.call('HSET', KEYS[1], kind, whole(now + WINDOW_MS)) end
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
