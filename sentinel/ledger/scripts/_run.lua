-- Part: the run of Redis that reports know, hash p:{sPP}: run (its id), until (Unix ms: nothing is sealed before that).
-- Another run may have lost the last moments of the one before: seals, whose sums are back then, and ends of claims. So it seals
-- nothing before everybody has told it again what it lost (reseal), and a claim ends by then. It may have lost this note too:
-- whoever asks says which run it has known first.
local RESEAL_MS = 6000

-- From when on new batches may be sealed; a run that is met for the first time is noted.
local function sealing_from(run_key, attempts_key, now, first_run)
  -- Where Redis does not say it (INFO may be forbidden), every run is the one that is known.
  local facts = redis.pcall('INFO', 'server')
  local run = type(facts) == 'string' and string.match(facts, 'run_id:(%x+)')
  local known, from = unpack(redis.call('HMGET', run_key, 'run', 'until'))
  from = tonumber(from) or 0
  if run and run ~= known then
    -- The first one of all has lost nothing.
    from = (known or (first_run ~= '' and first_run ~= run)) and now + RESEAL_MS or 0
    redis.call('HSET', run_key, 'run', run, 'until', whole(from))
    local claimed = known and redis.call('ZRANGEBYSCORE', attempts_key, '(' .. whole(from), '+inf') or {}
    for _, batch_id in ipairs(claimed) do redis.call('ZADD', attempts_key, whole(from), batch_id) end
  end
  -- Further off than it ever was: the clock was set back.
  return from <= now + RESEAL_MS and from or 0
end
