-- Part: the clock of all scripts. `given` is now_ms from a test; 0 means Redis' own TIME, in ms. No script takes a worker's clock.
local DAY_MS = 86400000
local function read_clock(given)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function midnight(at_ms) return math.floor(at_ms / DAY_MS) * DAY_MS end
-- Doubles hold whole numbers to 2^53, but tostring writes them as 1e+15.
local function whole(number) return string.format('%d', number) end
