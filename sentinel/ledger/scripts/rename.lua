-- rename: what was used under former names of a user is reported under the present one from now on. Python: Names.learn.
-- KEYS    1 n what callers of this partition are called by now
-- ARGV    1 Zion's own id of the user  2 external id now  3 e-mail now  4 at most so many names in KEYS[1]: beyond it any is forgotten
--         5.. external id and e-mail of each former name of this partition
-- returns {names in KEYS[1]}
-- clock   none
-- cost    O(former names)
-- A name is of whom it was last found to be: who has it now, is reported under it, also where another user had it before.
-- include: _names
local now = cjson.encode({ARGV[1], ARGV[2], ARGV[3]})
local own = name_field(ARGV[2], ARGV[3])
if redis.call('HEXISTS', KEYS[1], own) == 1 then redis.call('HSET', KEYS[1], own, now) end
for at = 5, #ARGV, 2 do
  local field = name_field(ARGV[at], ARGV[at + 1])
  local known = redis.call('HGET', KEYS[1], field)
  if not known or cjson.decode(known)[1] == ARGV[1] then redis.call('HSET', KEYS[1], field, now) end
end
while redis.call('HLEN', KEYS[1]) > tonumber(ARGV[4]) do
  redis.call('HDEL', KEYS[1], redis.call('HRANDFIELD', KEYS[1]))
end
return {redis.call('HLEN', KEYS[1])}
