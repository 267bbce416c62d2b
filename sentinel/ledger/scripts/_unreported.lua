-- Part: the unreported sums, hash a:{sPP}: field JSON [external id, e-mail, model, period start ms], value
-- "input|output|requests"; a correction after its charge was sealed leaves a negative number, which nets with what comes and is
-- never reported.
local function unreported_field(who, since) return string.format('%s,%d]', string.sub(who, 1, -2), since) end

local function add_unreported(key, field, input, output, requests)
  local known = redis.call('HGET', key, field)
  if known then
    local i, o, r = string.match(known, '^(-?%d+)|(-?%d+)|(-?%d+)$')
    input, output, requests = input + i, output + o, requests + r
  end
  if input == 0 and output == 0 and requests == 0 then
    redis.call('HDEL', key, field)
  else
    redis.call('HSET', key, field, string.format('%d|%d|%d', input, output, requests))
  end
end
