-- Part: a sliding window of one caller, hash w:{sPP}:<external id> (v: for tokens): number of the sub-bucket → amount in it.
-- The oldest sub-bucket counts in full until its last ms has left, so no real window ever has more than rate (-1: no window).
-- returns what is left, ms until some comes back (-1 where there is no window), and the sub-buckets that count no more
local function read_window(key, now, rate, width_ms, buckets)
  if rate < 0 then return rate, -1, {} end
  local bucket, left, reset, gone = math.floor(now / width_ms), rate, 0, {}
  local counts, oldest = redis.call('HGETALL', key), nil
  for at = 1, #counts, 2 do
    local number = tonumber(counts[at])
    if number < bucket - buckets or number > bucket then  -- later than now: from a window of another length
      gone[#gone + 1] = counts[at]
    else
      left = left - tonumber(counts[at + 1])
      if not oldest or number < oldest then oldest = number end
    end
  end
  if oldest then reset = math.ceil((oldest + buckets + 1) * width_ms - now) end
  return math.max(0, left), reset, gone
end
