-- Part: the unreported sums, hash a:{sPP}: field JSON [external id, e-mail, model, period start ms], value
-- "input|output|requests"; a correction after its charge was sealed leaves a negative number, which nets with what comes and is
-- never reported.
local function add_unreported(key, field, change)
  local input, output, requests = string.match(redis.call('HGET', key, field) or '0|0|0', '^(-?%d+)|(-?%d+)|(-?%d+)$')
  input, output, requests = input + change.i, output + change.o, requests + change.r
  if input == 0 and output == 0 and requests == 0 then
    redis.call('HDEL', key, field)
  else
    redis.call('HSET', key, field, whole(input) .. '|' .. whole(output) .. '|' .. whole(requests))
  end
end
