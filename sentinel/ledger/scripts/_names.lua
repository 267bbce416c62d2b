-- Part: what callers are called by now, hash n:{sPP}: field "<bytes of the external id>:<external id><e-mail>", as they were when
-- they used something, value JSON [Zion's own id of the user, external id, e-mail], as they are now. Who was never renamed has none.
local function name_field(external_id, email) return #external_id .. ':' .. external_id .. email end

-- External id and e-mail now of who had these.
local function present(key, external_id, email)
  local known = redis.call('HGET', key, name_field(external_id, email))
  if not known then return external_id, email end
  known = cjson.decode(known)
  return known[2], known[3]
end

-- Who used something, as Python writes it, which leaves a slash as it is, so that a sum joins the one there may be.
local function written_who(external_id, email, model)
  return (string.gsub(cjson.encode({external_id, email, model}), '\\/', '/'))
end
