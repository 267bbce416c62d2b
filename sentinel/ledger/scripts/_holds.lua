-- Part: what is held, hash r:{sPP}: request id → input tokens held, output tokens held, the sub-bucket in which the window of
-- tokens counts them (-1: none), output tokens so far, packed, and then JSON [external id, e-mail, model].
local HOLD, HOLD_BYTES = '<dddd', 32
