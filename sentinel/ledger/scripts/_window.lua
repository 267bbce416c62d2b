-- Part: a sliding window of one caller, part of the account (w: requests, v: tokens): the number of its newest sub-bucket, then
-- the amounts in that one and in each of the ten before it, packed; '' while there is none.
-- The oldest sub-bucket counts in full until its last ms has left, so no real window ever has more than rate (-1: no window).
local BUCKETS, WINDOW = 10, '<dddddddddddd'

-- The window as it is in the sub-bucket of now: a list as it is packed, what is left, and ms until some comes back.
local function read_window(packed, now, rate, width_ms)
  local bucket, left, reset, oldest = math.floor(now / width_ms), rate, 0, nil
  local known = packed ~= '' and {struct.unpack(WINDOW, packed)} or {bucket}
  local passed = bucket - known[1]
  if passed < 0 then known, passed = {}, 0 end  -- later than now: from a window of another length
  local window = {bucket, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
  for at = passed, BUCKETS do
    local amount = known[at - passed + 2] or 0
    if amount ~= 0 then
      window[at + 2], left, oldest = amount, left - amount, at
    end
  end
  if oldest then reset = math.ceil((bucket - oldest + BUCKETS + 1) * width_ms - now) end
  return window, left > 0 and left or 0, reset
end

-- The window, packed, with `change` put to the amount of a sub-bucket, where that still lies in it.
local function changed_window(packed, bucket, change)
  local window = packed ~= '' and {struct.unpack(WINDOW, packed)} or {bucket}
  local at = window[1] - bucket + 2
  if not window[at] or at < 2 or at > BUCKETS + 2 then return packed end
  window[at] = window[at] + change
  return struct.pack(WINDOW, unpack(window, 1, BUCKETS + 2))
end
