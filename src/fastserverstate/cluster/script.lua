-- What is done on the engine: one script, so that every operation is one atomic call. See protocol.py for its callers.
--
-- KEYS[1] is "fss:{namespace}:m"; all other keys have the same prefix, and so lie in the same slot of a cluster.
--   m    run: id of the server process that adopted the data; epoch, seq: of the last log entry; fence: of the last lock
--   d    key -> encoded value            v    key -> version, "epoch-seq"
--   log  stream of changes, whose ids are "epoch-seq", without holes in one epoch. Fields: w, the writer's ticket; s and a
--        key, and the value; r and a key whose value is to be fetched; d and a key that was deleted; all three in
--        capitals if nobody is to be rerun; f, too many to list; u and a key whose lock was released; a, adopted
--   op:  by writer: number and reply of its last operation       ttl  key -> when it is to be deleted, in ms
--   lk:  by key: "epoch-fence|owner" of its lock. The fence of a turn is 0: nobody holds it, but who has been passed
--        over for it for too long is the next who may.
--   w    owner -> "deadline|since|key" of the lock that it waits for: when that is out of date, and when it began, in ms
--   n    scratch, for sums that a Lua number cannot hold
--
-- ARGV[1] is the name of the operation, ARGV[2] the run id of the server that the caller's connection was made to.
-- The first item of a reply says what came of it. Nothing was changed if that is not OK.

local META = KEYS[1]
local PREFIX = string.sub(META, 1, -2)
local DATA, VERSIONS, LOG = PREFIX .. 'd', PREFIX .. 'v', PREFIX .. 'log'
local WAITS, TTL, SCRATCH = PREFIX .. 'w', PREFIX .. 'ttl', PREFIX .. 'n'
local OPERATION_EXPIRY = 600000  -- ms
local LOG_LENGTH = 10000
local MOST_LISTED = 1000         -- changes in an entry of the log; of more, readers are told to resynchronise
local INLINE = 4096              -- bytes of a value in the log; longer ones are fetched from the hash
local EXACT_DIGITS = 15          -- of integers that Lua's numbers hold exactly
local MOST_HOPS = 100
local WAIT_FRESH = 5000          -- ms after which a waiter that has not tried again is gone
local PASSED_OVER = 100          -- ms after which a waiter is to have the next turn
local TURN = 2000                -- ms that it has for it: more than it waits for word before it tries again

local run = ARGV[2]
local meta = redis.call('HMGET', META, 'run', 'epoch', 'seq')
local epoch = meta[2]
local at = 2  -- the argument that was read last

local function take()
    at = at + 1
    return ARGV[at]
end

local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function integer(number)
    return string.format('%.0f', number)
end

local function append(fields)
    local seq = integer(redis.call('HINCRBY', META, 'seq', 1))
    local id = epoch .. '-' .. seq
    redis.call('XADD', LOG, 'MAXLEN', '~', LOG_LENGTH, id, unpack(fields))
    return id
end

-- Who holds the lock of a key: token and owner. A lock of an earlier epoch is nobody's.
local function holder(key)
    local lock = redis.call('GET', PREFIX .. 'lk:' .. key)
    if not lock then
        return nil
    end
    local token, owner = string.match(lock, '^([^|]*)|(.*)$')
    if string.match(token, '^%d+') ~= epoch then
        return nil
    end
    return token, owner
end

-- The token of who has a turn.
local function turn()
    return epoch .. '-0'
end

-- The key that is waited for, and since when, if whoever waits has tried of late.
local function awaited(wait, moment)
    local deadline, since, key = string.match(wait or '', '^(%d+)|(%d+)|(.*)$')
    if deadline and tonumber(deadline) >= moment then
        return key, tonumber(since)
    end
    return nil
end

-- The keys, and who holds each, of a circle of waiting owners that would be closed if this one waited for the key.
local function circle(owner, key)
    local moment, found = now(), {}
    for _ = 1, MOST_HOPS do
        local _, other = holder(key)
        if not other then
            return nil
        end
        found[#found + 1] = key
        found[#found + 1] = other
        if other == owner then
            return found
        end
        key = awaited(redis.call('HGET', WAITS, other), moment)
        if not key then
            return nil
        end
    end
    return nil
end

-- What to answer an owner that finds a key locked, and waits or does not.
local function locked(owner, key, waits)
    if waits ~= '1' then
        return {'LOCKED', key, '0'}
    end
    local closed = circle(owner, key)
    if closed then
        redis.call('HDEL', WAITS, owner)
        return {'DEADLOCK', unpack(closed)}
    end
    local moment = now()
    local before, since = awaited(redis.call('HGET', WAITS, owner), moment)
    local times = integer(moment + WAIT_FRESH) .. '|' .. integer(before == key and since or moment)
    redis.call('HSET', WAITS, owner, times .. '|' .. key)
    return {'LOCKED', key, integer(math.max(redis.call('PTTL', PREFIX .. 'lk:' .. key), 0))}
end

-- Free the keys whose token the owner has. The next turn is of who has been passed over for longest; all who wait are
-- told. A lock that is held no more is none of the caller's business.
local function free(owner, tokens)
    local keys = {}
    for key, token in pairs(tokens) do
        if redis.call('GET', PREFIX .. 'lk:' .. key) == token .. '|' .. owner then
            redis.call('DEL', PREFIX .. 'lk:' .. key)
            keys[#keys + 1] = key
        end
    end
    local waits = #keys > 0 and redis.call('HGETALL', WAITS) or {}
    if #waits == 0 then
        return
    end
    local moment, longest, fields = now(), {}, {}
    for i = 1, #waits, 2 do
        local key, since = awaited(waits[i + 1], moment)
        if key and since < moment - PASSED_OVER and not (longest[key] and longest[key].since <= since) then
            longest[key] = {owner = waits[i], since = since}
        end
    end
    for _, key in ipairs(keys) do
        local following = longest[key]
        if following then
            redis.call('SET', PREFIX .. 'lk:' .. key, turn() .. '|' .. following.owner, 'PX', TURN)
            redis.call('HDEL', WAITS, following.owner)
        end
        fields[#fields + 1] = 'u' .. key
        fields[#fields + 1] = ''
    end
    append(fields)
end

local function set(key, value, version, expiry)
    redis.call('HSET', DATA, key, value)
    redis.call('HSET', VERSIONS, key, version)
    if expiry ~= '' then
        redis.call('ZADD', TTL, integer(now() + tonumber(expiry)), key)
    else
        redis.call('ZREM', TTL, key)
    end
end

local function delete(key)
    redis.call('HDEL', DATA, key)
    redis.call('HDEL', VERSIONS, key)
    redis.call('ZREM', TTL, key)
end

local function is_value(key, value)
    return redis.call('HSTRLEN', DATA, key) == #value and redis.call('HGET', DATA, key) == value
end

local function sum(old, by)
    if #old <= EXACT_DIGITS and #by <= EXACT_DIGITS then
        return integer(tonumber(old) + tonumber(by))
    end
    redis.call('SET', SCRATCH, old)
    local reply = redis.pcall('INCRBY', SCRATCH, by)
    local total = redis.call('GET', SCRATCH)
    redis.call('DEL', SCRATCH)
    if type(reply) == 'table' and reply.err then
        return nil
    end
    return total
end

-- Every operation below but these has been made by a connection to the server that adopted the data.

if ARGV[1] == 'adopt' then
    -- known epoch -> epoch, seq. The data may be older than what its readers have: then versions must not repeat.
    local known = tonumber(ARGV[3])
    if meta[1] ~= run or not epoch or tonumber(epoch) < known then
        local last = 0
        if redis.call('EXISTS', LOG) == 1 then
            local info = redis.call('XINFO', 'STREAM', LOG)
            for i = 1, #info, 2 do
                if info[i] == 'last-generated-id' then
                    last = tonumber(string.match(info[i + 1], '^%d+'))
                end
            end
        end
        epoch = integer(math.max(now(), tonumber(epoch or 0) + 1, last + 1, known + 1))
        redis.call('HSET', META, 'run', run, 'epoch', epoch, 'seq', '0')
        redis.call('DEL', WAITS)
        append({'a', run})
        meta[3] = '1'
    end
    return {'OK', epoch, meta[3]}
end

if meta[1] ~= run or not epoch then
    return {'RUN'}
end

if ARGV[1] == 'state' then
    return {'OK', epoch, meta[3]}
end

if ARGV[1] == 'versions' then
    return {'OK', epoch, meta[3], redis.call('HGETALL', VERSIONS)}
end

-- keys -> version, value of each
local function values(first)
    local found = {}
    for i = first, #ARGV do
        found[#found + 1] = redis.call('HGET', VERSIONS, ARGV[i])
        found[#found + 1] = redis.call('HGET', DATA, ARGV[i])
    end
    return found
end

if ARGV[1] == 'values' then
    return {'OK', values(3)}
end

if ARGV[1] == 'catchup' then
    -- cursor, keys -> epoch, seq, entries since the cursor, and key, version, value of the keys and of those that the
    -- entries refer to. All of one moment.
    local entries = redis.call('XRANGE', LOG, '(' .. ARGV[3], '+')
    local wanted, keys = {}, {}
    for i = 4, #ARGV do
        wanted[ARGV[i]] = true
    end
    for _, entry in ipairs(entries) do
        for i = 1, #entry[2], 2 do
            if string.lower(string.sub(entry[2][i], 1, 1)) == 'r' then
                wanted[string.sub(entry[2][i], 2)] = true
            end
        end
    end
    for key in pairs(wanted) do
        keys[#keys + 1] = key
        keys[#keys + 1] = redis.call('HGET', VERSIONS, key)
        keys[#keys + 1] = redis.call('HGET', DATA, key)
    end
    return {'OK', epoch, meta[3], entries, keys}
end

if ARGV[1] == 'renew' then
    -- owner, lifetime in ms, pairs of key and token -> 1 or 0 for each, whether the lock is still held
    local owner, lifetime = take(), take()
    local held = {}
    while at < #ARGV do
        local key, token = take(), take()
        local current, holds = holder(key)
        local mine = current == token and holds == owner
        if mine then
            redis.call('PEXPIRE', PREFIX .. 'lk:' .. key, lifetime)
        end
        held[#held + 1] = mine and 1 or 0
    end
    return {'OK', held}
end

if ARGV[1] == 'release' then
    -- owner, pairs of key and token
    local owner, tokens = take(), {}
    while at < #ARGV do
        local key, token = take(), take()
        tokens[key] = token
    end
    free(owner, tokens)
    return {'OK'}
end

if ARGV[1] == 'leave' then
    -- owner, keys: it waits for them no more
    local owner, tokens = take(), {}
    redis.call('HDEL', WAITS, owner)
    while at < #ARGV do
        tokens[take()] = turn()
    end
    free(owner, tokens)
    return {'OK'}
end

if ARGV[1] == 'reap' then
    -- -> how many keys were deleted because their time is over. Waiters that are gone are forgotten.
    local moment, waits = now(), redis.call('HGETALL', WAITS)
    for i = 1, #waits, 2 do
        if not awaited(waits[i + 1], moment) then
            redis.call('HDEL', WAITS, waits[i])
        end
    end
    local fields = {}
    for _, key in ipairs(redis.call('ZRANGEBYSCORE', TTL, '-inf', integer(moment), 'LIMIT', 0, MOST_LISTED)) do
        if not holder(key) then
            delete(key)
            fields[#fields + 1] = 'd' .. key
            fields[#fields + 1] = ''
        end
    end
    if #fields > 0 then
        append(fields)
    end
    return {'OK', #fields / 2}
end

-- The operations that are done once, however often they are asked for. They have a writer and a number. Also what was
-- refused is not done later: the network may still hold a copy of the request when the caller has gone on.

local writer, number = take(), take()
local record = redis.call('GET', PREFIX .. 'op:' .. writer)
if record then
    local done = cmsgpack.unpack(record)
    if done[1] == number then
        return done[2]
    end
    if tonumber(number) < tonumber(done[1]) then
        return {'OLD'}
    end
end

local function finish(reply)
    redis.call('SET', PREFIX .. 'op:' .. writer, cmsgpack.pack({number, reply}), 'PX', OPERATION_EXPIRY)
    return reply
end

local owner = take()

if ARGV[1] == 'acquire' then
    -- lifetime in ms, '1' to wait for it, keys -> token, epoch, seq, and the version of each key
    local lifetime, waits = take(), take()
    local keys = {}
    while at < #ARGV do
        keys[#keys + 1] = take()
        local _, other = holder(keys[#keys])
        if other and other ~= owner then
            return finish(locked(owner, keys[#keys], waits))
        end
    end
    local token = epoch .. '-' .. integer(redis.call('HINCRBY', META, 'fence', 1))
    local reply = {'OK', token, epoch, meta[3]}
    for _, key in ipairs(keys) do
        redis.call('SET', PREFIX .. 'lk:' .. key, token .. '|' .. owner, 'PX', lifetime)
        reply[#reply + 1] = redis.call('HGET', VERSIONS, key) or ''
    end
    redis.call('HDEL', WAITS, owner)
    return finish(reply)
end

-- 'write': ticket, for the log; the number of locks that the owner relies on, and key and token of each; and changes:
-- kind, key, value, condition, expiry in ms or '', quiet ('1': rerun nobody)
--   S  set                         T  set, and behave as if that was another value
--   N  set if absent               D  delete
--   C  set if the version is the condition
--   I  add the value to an integer, or to the condition, in plain digits, if there is none
-- -> OK, version, whether anything changed ('1' or '0'), and for each change three: the version that there was, or '';
--   of I the sum, encoded, and of N and D the value that there was, unless its version is the condition; and the version
--   that there is now, or, of what was deleted, the one that did it

local ticket = take()
local claims = tonumber(take())
for _ = 1, claims do
    local key, token = take(), take()
    local current, holds = holder(key)
    if current ~= token or holds ~= owner then
        return finish({'LOCKLOST', key})
    end
end

local changes, turns = {}, {}
while at < #ARGV do
    local kind, key, value, condition, expiry, quiet = take(), take(), take(), take(), take(), take()
    changes[#changes + 1] = {
        kind = kind, key = key, value = value, condition = condition, expiry = expiry, quiet = quiet
    }
    local token, other = holder(key)
    if other and other ~= owner then
        return finish(locked(owner, key, '1'))
    end
    if token == turn() then
        turns[key] = token
    end
end
-- The engine looks at its memory before a script's first write only: that must not be one that needs none.
if redis.call('HEXISTS', WAITS, owner) == 1 then
    redis.call('HDEL', WAITS, owner)
end

local effective, grows = {}, false
for _, change in ipairs(changes) do
    local kind, key = change.kind, change.key
    local version = redis.call('HGET', VERSIONS, key)
    change.changes = true
    if kind == 'S' then
        change.changes = change.expiry ~= '' or not is_value(key, change.value)
        if not change.changes and redis.call('ZSCORE', TTL, key) then
            redis.call('ZREM', TTL, key)
        end
    elseif kind == 'C' then
        if (version or '') ~= change.condition then
            return finish({'CONFLICT', version or '', version and redis.call('HGET', DATA, key)})
        end
    elseif kind == 'N' then
        change.changes = not version
    elseif kind == 'D' then
        change.changes = version
    elseif kind == 'I' then
        local old = version and redis.call('HGET', DATA, key) or 'i' .. change.condition
        local total = string.sub(old, 1, 1) == 'i' and sum(string.sub(old, 2), string.sub(change.value, 2))
        if not total then
            return finish({'NOTINT'})
        end
        change.value = 'i' .. total
        change.changes = not version or old ~= change.value
    end
    change.before = version or ''
    if kind == 'I' then
        change.answer = change.value
    else
        local asked = (kind == 'N' or kind == 'D') and version and version ~= change.condition
        change.answer = asked and redis.call('HGET', DATA, key)
    end
    change.after = change.before
    grows = grows or kind ~= 'D'
    if change.changes then
        effective[#effective + 1] = change
    end
end

local id = epoch .. '-' .. meta[3]
if #effective > 0 then
    if not grows then
        redis.call('HDEL', WAITS, owner)  -- what makes room may be done when there is none
    end
    local fields = {'w', ticket}
    if #effective > MOST_LISTED then
        fields[3], fields[4] = 'f', ''
    else
        for _, change in ipairs(effective) do
            local kind = change.kind
            local listed = kind == 'D' and 'd' or #change.value > INLINE and 'r' or 's'
            fields[#fields + 1] = (change.quiet == '1' and string.upper(listed) or listed) .. change.key
            fields[#fields + 1] = listed == 's' and change.value or ''
        end
    end
    id = append(fields)
    for _, change in ipairs(effective) do
        change.after = id
        if change.kind == 'D' then
            delete(change.key)
        elseif change.kind == 'I' then
            redis.call('HSET', DATA, change.key, change.value)
            redis.call('HSET', VERSIONS, change.key, id)
        else
            set(change.key, change.value, id, change.expiry)
        end
    end
end
free(owner, turns)
local reply = {'OK', id, #effective > 0 and '1' or '0'}
for _, change in ipairs(changes) do
    reply[#reply + 1] = change.before
    reply[#reply + 1] = change.answer
    reply[#reply + 1] = change.after
end
return finish(reply)
