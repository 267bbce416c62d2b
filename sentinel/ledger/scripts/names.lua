-- names: note what Zion calls a user now; which names the user had before. Python: Names.learn.
-- KEYS    1 u names of the user
-- ARGV    1 external id  2 e-mail ('' where there is none)  3 at most so many names, the oldest goes first  4 life ms
-- returns {external id, e-mail, ..} of the names before, the oldest first; empty for a user who was never renamed
-- clock   none: of two answers of Zion that cross on their way the later one counts, until Zion is asked again
-- cost    O(names)
-- u: JSON [[external id, e-mail], ..], each name once, the present one last
local known, names, before = cjson.decode(redis.call('GET', KEYS[1]) or '[]'), {}, {}
for at, name in ipairs(known) do
  local present = name[1] == ARGV[1] and name[2] == ARGV[2]
  if not present and at > #known - tonumber(ARGV[3]) + 1 then
    names[#names + 1] = name
    before[#before + 1], before[#before + 2] = name[1], name[2]
  end
end
names[#names + 1] = {ARGV[1], ARGV[2]}
redis.call('SET', KEYS[1], cjson.encode(names), 'PX', ARGV[4])
return before
