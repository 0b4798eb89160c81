-- The operations on the engine: one script, so that every operation is one atomic call. client.py calls it.
--
-- KEYS[1] is "fss:{namespace}:m". All other keys have the same prefix, and so are in the same slot of a cluster.
--   m    run: id of the server process that adopted the data; epoch, seq: of the last log entry; fence: of the last lock
--   d    key -> encoded value            v    key -> version, "epoch-seq"
--   log  stream of changes, whose ids are "epoch-seq", without gaps in one epoch. Fields: w, the writer's ticket; s and a
--        key, and the value; r and a key whose value has to be fetched; d and a key that was deleted, or touched while
--        it was not set; all three in capitals if no session should rerun; f, too many to list; u and a key whose lock
--        was released; a, adopted; x and the ms until a key expires, if all others expire later. The value of d is
--        "expired" if the key has
--   op:  by writer: number and reply of its last operation
--   ttl  key -> its deadline, in ms of the engine's clock         idle  the same, unless a server still uses the key
--   lk:  by key: "epoch-fence|holder" of its lock. The fence of a turn is 0: no server holds the lock, and the
--        longest-waiting server goes next.
--   w    holder -> "deadline|since|how|token|other|key" of the lock that it waits for: times in ms when this note
--        expires and when the wait began; how it waits; the token and the holder of the lock at that time
--   n    scratch, for sums that a Lua number cannot represent
--
-- ARGV[1] is the name of the operation, ARGV[2] the run id of the engine when the caller connected. The first item of a
-- reply is the outcome. Data was changed only if it is OK, or HALF: an error after a part of the changes. The script
-- never assumes that data is well-formed, because other clients may write to the engine.

local META = KEYS[1]
local PREFIX = string.sub(META, 1, -2)
local DATA, VERSIONS, LOG = PREFIX .. 'd', PREFIX .. 'v', PREFIX .. 'log'
local WAITS, SCRATCH = PREFIX .. 'w', PREFIX .. 'n'
local TTL, IDLE = PREFIX .. 'ttl', PREFIX .. 'idle'
local KEEP = 'K'                 -- in place of a ttl: keep the deadline
local OPERATION_EXPIRY = 600000  -- ms
local LOG_LENGTH = 10000
local MOST_LISTED = 1000         -- changes in an entry of the log; after larger writes, servers resynchronise
local INLINE = 4096              -- bytes of a value in the log; longer ones are fetched from the hash
local EXACT_DIGITS = 15          -- of integers that Lua numbers represent exactly
local MOST_HOPS = 100
local WAIT_FRESH = 5000          -- ms until a waiter that does not try again is forgotten
local PASSED_OVER = 100          -- ms of waiting that entitle to a turn
local TURN = 2000                -- ms until a turn expires: longer than the RETRY of locks.py
local MOST_UNLOCKED = 1000       -- keys in an entry of the log
local NOT, FOR_EVER, HERE = '0', '1', '3'  -- ways to wait; any other has a timeout. HERE: for the holder's own process

local run = ARGV[2]
local meta = redis.call('HMGET', META, 'run', 'epoch', 'seq', 'fence')
local epoch
local at = 2           -- index of the last argument that was read
local changed = false  -- true after a change, other than to the notes of waits, operations and numbers

local function change(...)
    local reply = redis.call(...)
    changed = true
    return reply
end

-- Return the text if it is a number that Lua represents exactly, else nil.
local function digits(text)
    return text and #text <= 15 and string.match(text, '^%d+$')
end

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

-- Return the id that the next entry of the log has to exceed, nil without a log, or '' if it is not a stream.
local function last_id()
    local info = redis.pcall('XINFO', 'STREAM', LOG)
    if info.err then
        return not string.find(info.err, 'no such key') and '' or nil
    end
    for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then
            return info[i + 1]
        end
    end
end

-- Restart the log, because another client has written to it. Servers then miss a number, and resynchronise.
local function restart_log()
    local in_epoch, above = string.match(last_id() or '', '^(%d+)-(%d+)$')
    local seq = tonumber(redis.call('HGET', META, 'seq'))
    above = in_epoch == epoch and digits(above) and tonumber(above) or 0
    change('DEL', LOG)
    redis.call('HSET', META, 'seq', integer(math.max(seq, above) + 1))
end

local function append(fields)
    local id, reply
    for _ = 1, 2 do
        id = epoch .. '-' .. integer(redis.call('HINCRBY', META, 'seq', 1))
        reply = redis.pcall('XADD', LOG, 'MAXLEN', '~', LOG_LENGTH, id, unpack(fields))
        if type(reply) == 'string' then
            changed = true
            return id
        elseif not string.find(reply.err, 'equal or smaller') and not string.find(reply.err, 'WRONGTYPE') then
            break
        end
        restart_log()
    end
    error(reply, 0)
end

-- Return token and holder of a key's lock. Locks of earlier epochs count as free.
local function lease(key)
    local lock = redis.pcall('GET', PREFIX .. 'lk:' .. key)
    local token, holder = string.match(type(lock) == 'string' and lock or '', '^(%d+%-%d+)|(.*)$')
    if not token or string.match(token, '^%d+') ~= epoch then
        return nil
    end
    return token, holder
end

-- Return the token of a turn.
local function turn()
    return epoch .. '-0'
end

-- Parse the note of a wait. Returns nil if it has expired.
local function parse_wait(wait, moment)
    local deadline, since, how, token, other, key =
        string.match(wait or '', '^(%d+)|(%d+)|(%d)|([%d-]*)|([^|]*)|(.*)$')
    if deadline and tonumber(deadline) >= moment then
        return {key = key, since = tonumber(since), how = how, token = token, other = other}
    end
    return nil
end

-- Return true if a wait ends only when the other holder releases a lock that it still holds.
local function is_edge(wait)
    if wait.how ~= FOR_EVER and wait.how ~= HERE or wait.token == turn() then
        return false
    end
    return wait.token == '' or lease(wait.key) == wait.token
end

-- Note that the holder waits for another one, which has the key's lock. Returns a reply if that completes a deadlock,
-- with the keys and the holder of each.
local function wait(holder, key, how, token, other)
    local moment = now()
    local reply, following = {'DEADLOCK'}, {key = key, how = how, token = token, other = other}
    for _ = 1, MOST_HOPS do
        if not following or not is_edge(following) then
            break
        end
        reply[#reply + 1] = following.key
        reply[#reply + 1] = following.other
        if following.other == holder then
            redis.call('HDEL', WAITS, holder)
            return reply
        end
        following = parse_wait(redis.call('HGET', WAITS, following.other), moment)
    end
    local before = parse_wait(redis.call('HGET', WAITS, holder), moment)
    local since = before and before.key == key and before.since or moment
    redis.call('HSET', WAITS, holder, integer(moment + WAIT_FRESH) .. '|' .. integer(since) .. '|' .. how .. '|'
        .. token .. '|' .. other .. '|' .. key)
    return nil
end

-- Return the reply to a holder if another one has the key's lock.
local function locked(holder, key, how, token, other)
    if how == NOT then
        return {'LOCKED', key, ''}
    end
    local left = redis.call('PTTL', PREFIX .. 'lk:' .. key)
    return wait(holder, key, how, token, other) or {'LOCKED', key, integer(left < 0 and TURN or left)}
end

local function delete(key)
    change('HDEL', DATA, key)
    change('HDEL', VERSIONS, key)
    change('ZREM', TTL, key)
    change('ZREM', IDLE, key)
end

-- Return the time of the first deadline after a moment, '-inf' for any time, or nil.
local function first_deadline(after)
    local first
    for _, deadlines in ipairs({TTL, IDLE}) do
        local found = redis.call('ZRANGEBYSCORE', deadlines, after, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        if found[2] and (not first or tonumber(found[2]) < first) then
            first = tonumber(found[2])
        end
    end
    return first
end

-- Parse the ttl of a written key in ms ('' for none, or KEEP), and its idle_ttl in ms or ''.
local function parse_expiry(expiry)
    local ttl, idle = string.match(expiry, '^([K%d]*)/?(%d*)$')
    return ttl or '', idle or ''
end

local function set_deadline(deadlines, key, left)
    if left == '' then
        change('ZREM', deadlines, key)
    elseif left ~= KEEP then
        change('ZADD', deadlines, integer(now() + tonumber(left)), key)
    end
end

local function is_due(key, moment)
    local deadline, idle = redis.call('ZSCORE', TTL, key), redis.call('ZSCORE', IDLE, key)
    return deadline and tonumber(deadline) <= moment or idle and tonumber(idle) <= moment
end

-- Release locks with the holder's tokens, except lost ones. The longest-waiting holder gets a turn, and the log tells
-- all waiters. Keys that have expired meanwhile are deleted.
local function free(holder, tokens)
    local keys = {}
    for key, token in pairs(tokens) do
        local current, other = lease(key)
        if current == token and other == holder then
            change('DEL', PREFIX .. 'lk:' .. key)
            keys[#keys + 1] = key
        end
    end
    local waits = #keys > 0 and redis.call('HGETALL', WAITS) or {}
    local moment, longest, fields = now(), {}, {}
    for _, key in ipairs(keys) do
        if is_due(key, moment) then
            delete(key)
            append({'d' .. key, 'expired'})
        end
    end
    if #waits == 0 then
        return
    end
    for i = 1, #waits, 2 do
        local found = parse_wait(waits[i + 1], moment)
        if found and found.how ~= HERE and found.since < moment - PASSED_OVER then
            local other = longest[found.key]
            if not other or other.since > found.since then
                longest[found.key] = {holder = waits[i], since = found.since}
            end
        end
    end
    for i, key in ipairs(keys) do
        local following = longest[key]
        if following then
            change('SET', PREFIX .. 'lk:' .. key, turn() .. '|' .. following.holder, 'PX', TURN)
            redis.call('HDEL', WAITS, following.holder)
        end
        fields[#fields + 1] = 'u' .. key
        fields[#fields + 1] = ''
        if i % MOST_UNLOCKED == 0 or i == #keys then
            append(fields)
            fields = {}
        end
    end
end

-- Return the version of a key, or nil if it has none or a malformed one.
local function version_of(key)
    local version = redis.call('HGET', VERSIONS, key)
    return version and string.match(version, '^%d+%-%d+$')
end

local function set(key, value, version)
    change('HSET', DATA, key, value)
    change('HSET', VERSIONS, key, version)
end

local function is_value(key, value)
    return redis.call('HSTRLEN', DATA, key) == #value and redis.call('HGET', DATA, key) == value
end

local function sum(old, by)
    if not string.match(old, '^-?%d+$') or not string.match(by, '^-?%d+$') then
        return nil
    end
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

if digits(meta[2]) and digits(meta[3]) and (not meta[4] or digits(meta[4])) then
    epoch = meta[2]
end

local operations = {}

-- All operations except `adopt` require that the engine to which the caller connected has adopted the data.

function operations.adopt()
    -- known epoch -> epoch, seq. The data may be older than that of the servers, so versions must not repeat.
    local known = tonumber(ARGV[3])
    if meta[1] ~= run or not epoch or tonumber(epoch) < known then
        local above = digits(string.match(last_id() or '', '^%d+'))
        if not above then
            change('DEL', LOG)  -- it does not exist, or was not written by this script
        end
        epoch = integer(math.max(now(), tonumber(epoch or 0) + 1, tonumber(above or 0) + 1, known + 1))
        change('HSET', META, 'run', run, 'epoch', epoch, 'seq', '0')
        if not digits(meta[4]) then
            redis.call('HDEL', META, 'fence')  -- tokens grow with the epoch
        end
        redis.call('DEL', WAITS)
        append({'a', run})
        meta[3] = '1'
    end
    return {'OK', epoch, meta[3]}
end

function operations.state()
    return {'OK', epoch, meta[3]}
end

function operations.versions()
    local found = last_id()
    if found and found ~= epoch .. '-' .. meta[3] then
        restart_log()
        append({'a', run})
    end
    return {'OK', epoch, redis.call('HGET', META, 'seq'), redis.call('HGETALL', VERSIONS)}
end

function operations.values()
    -- keys -> version, value of each
    local found = {}
    for i = 3, #ARGV do
        found[#found + 1] = redis.call('HGET', VERSIONS, ARGV[i])
        found[#found + 1] = redis.call('HGET', DATA, ARGV[i])
    end
    return {'OK', found}
end

function operations.catchup()
    -- cursor, keys -> epoch, seq, entries since the cursor, and key, version, value of the keys and of those that the
    -- entries refer to
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

function operations.renew()
    -- holder, lifetime in ms, pairs of key and token -> for each, 1 if the lock is still held, else 0
    local holder, lifetime = take(), take()
    local held = {}
    while at < #ARGV do
        local key, token = take(), take()
        local current, holds = lease(key)
        local mine = current == token and holds == holder
        if mine then
            change('PEXPIRE', PREFIX .. 'lk:' .. key, lifetime)
        end
        held[#held + 1] = mine and 1 or 0
    end
    return {'OK', held}
end

function operations.release()
    -- holder, pairs of key and token
    local holder, tokens = take(), {}
    while at < #ARGV do
        local key, token = take(), take()
        tokens[key] = token
    end
    free(holder, tokens)
    return {'OK'}
end

function operations.leave()
    -- holder, keys that it no longer waits for
    local holder, tokens = take(), {}
    redis.call('HDEL', WAITS, holder)
    while at < #ARGV do
        tokens[take()] = turn()
    end
    free(holder, tokens)
    return {'OK'}
end

function operations.waiting()
    -- holder, key, and the other holder that has the lock in the process of both, even if it was lost here
    local holder, key, other = take(), take(), take()
    local token, holds = lease(key)
    return wait(holder, key, HERE, holds == other and token or '', other) or {'OK'}
end

function operations.reap()
    -- -> number of expired keys that were deleted, and the ms until the next call is needed, or ''. Any server may call
    -- this. Locked keys are left to the release of the lock. Expired notes of waits are deleted, too.
    local moment, waits = now(), redis.call('HGETALL', WAITS)
    for i = 1, #waits, 2 do
        if not parse_wait(waits[i + 1], moment) then
            redis.call('HDEL', WAITS, waits[i])
        end
    end
    local fields = {}
    for _, deadlines in ipairs({TTL, IDLE}) do
        local due = redis.call('ZRANGEBYSCORE', deadlines, '-inf', integer(moment), 'LIMIT', 0, MOST_LISTED / 2)
        for _, key in ipairs(due) do
            if not version_of(key) then
                change('ZREM', deadlines, key)
            elseif not lease(key) then
                delete(key)
                fields[#fields + 1] = 'd' .. key
                fields[#fields + 1] = 'expired'
            end
        end
    end
    if #fields > 0 then
        append(fields)
    end
    local first = first_deadline('(' .. integer(moment))
    if #fields >= MOST_LISTED then
        first = moment
    end
    return {'OK', #fields / 2, first and integer(first - moment) or ''}
end

function operations.prolong()
    -- pairs of key and ms: a server uses these keys, so they do not expire as idle before
    local moment = now()
    while at < #ARGV do
        local key, left = take(), take()
        if redis.call('ZSCORE', IDLE, key) then
            change('ZADD', IDLE, integer(moment + tonumber(left)), key)
        end
    end
    return {'OK'}
end

-- The operations that are executed once, even if the request is repeated. They have a writer and a number. The replies
-- to refused requests are stored too: a delayed copy of the request may arrive after the caller has continued.

local numbered = {}

function numbered.acquire(holder)
    -- lifetime in ms, how to wait, keys -> token, epoch, seq, and the version of each key
    local lifetime, waits = take(), take()
    local keys = {}
    while at < #ARGV do
        keys[#keys + 1] = take()
        local token, other = lease(keys[#keys])
        if other and other ~= holder then
            return locked(holder, keys[#keys], waits, token, other)
        end
    end
    local token = epoch .. '-' .. integer(redis.call('HINCRBY', META, 'fence', 1))
    local reply = {'OK', token, epoch, meta[3]}
    for _, key in ipairs(keys) do
        change('SET', PREFIX .. 'lk:' .. key, token .. '|' .. holder, 'PX', lifetime)
        reply[#reply + 1] = version_of(key) or ''
    end
    redis.call('HDEL', WAITS, holder)
    return reply
end

-- ticket, for the log; the number of locks that the holder relies on, and key and token of each; and changes:
-- kind, key, value, condition, expiry (see parse_expiry), quiet ('1': rerun no session)
--   S  set                         T  set, and treat an equal value as a change
--   N  set if absent               D  delete
--   C  set if the version is the condition
--   A  treat the key as changed, with the value that it has or none
--   I  add the value to an integer, or to the condition, in plain digits, if the key is not set
--   X  only set the deadline of the key, if it is set
-- -> OK, version, '1' if anything changed, else '0', and for each change three items: the earlier version, or ''; for I
--   the sum, encoded, and for N and D the earlier value, unless its version is the condition; and the present version,
--   or that of the deletion
function numbered.write(holder)
    local ticket = take()
    local claims = tonumber(take())
    for _ = 1, claims do
        local key, token = take(), take()
        local current, holds = lease(key)
        if current ~= token or holds ~= holder then
            return {'LOCKLOST', key}
        end
    end

    local changes, turns = {}, {}
    while at < #ARGV do
        local kind, key, value, condition, expiry, quiet = take(), take(), take(), take(), take(), take()
        changes[#changes + 1] = {
            kind = kind, key = key, value = value, condition = condition, expiry = expiry, quiet = quiet
        }
        local token, other = lease(key)
        if other and other ~= holder then
            return locked(holder, key, FOR_EVER, token, other)
        end
        if token == turn() then
            turns[key] = token
        end
    end
    -- The engine checks its memory only before the first write of a script, so an HDEL here would disable the check.
    if redis.call('HEXISTS', WAITS, holder) == 1 then
        redis.call('HDEL', WAITS, holder)
    end

    local effective, grows = {}, false
    for _, made in ipairs(changes) do
        local kind, key = made.kind, made.key
        local version = version_of(key)
        made.changes = true
        if kind == 'S' then
            made.changes = not version or not is_value(key, made.value)
        elseif kind == 'X' then
            made.changes = false
        elseif kind == 'C' then
            if (version or '') ~= made.condition then
                return {'CONFLICT', version or '', version and redis.call('HGET', DATA, key)}
            end
        elseif kind == 'N' then
            made.changes = not version
        elseif kind == 'D' then
            made.changes = version
        elseif kind == 'I' then
            local old = version and redis.call('HGET', DATA, key) or 'i' .. made.condition
            local total = string.sub(old, 1, 1) == 'i' and sum(string.sub(old, 2), string.sub(made.value, 2))
            if not total then
                return {'NOTINT'}
            end
            made.value = 'i' .. total
            made.changes = not version or old ~= made.value
        end
        made.before = version or ''
        if kind == 'I' then
            made.answer = made.value
        else
            local asked = (kind == 'N' or kind == 'D') and version and version ~= made.condition
            made.answer = asked and redis.call('HGET', DATA, key)
        end
        made.after = made.before
        grows = grows or kind ~= 'D'
        if made.changes then
            effective[#effective + 1] = made
        end
    end

    -- Servers sleep until the first deadline, so they are told of an earlier one.
    local earliest
    for _, made in ipairs(changes) do
        for _, left in ipairs({parse_expiry(made.expiry)}) do
            if left ~= '' and left ~= KEEP and not (earliest and earliest <= tonumber(left)) then
                earliest = tonumber(left)
            end
        end
    end
    if earliest then
        local first = first_deadline('-inf')
        if first and first <= now() + earliest then
            earliest = nil
        end
    end

    local id = epoch .. '-' .. meta[3]
    if #effective > 0 or earliest then
        if not grows then
            redis.call('HDEL', WAITS, holder)  -- disables the check: deletions free memory
        end
        local fields = {'w', ticket}
        if earliest then
            fields = {'w', ticket, 'x', integer(earliest)}
        end
        if #effective > MOST_LISTED then
            fields[#fields + 1] = 'f'
            fields[#fields + 1] = ''
        else
            for _, made in ipairs(effective) do
                local kind = made.kind
                local fetched = kind == 'A' and made.before ~= '' or #made.value > INLINE
                local listed = fetched and 'r' or (kind == 'D' or kind == 'A') and 'd' or 's'
                fields[#fields + 1] = (made.quiet == '1' and string.upper(listed) or listed) .. made.key
                fields[#fields + 1] = listed == 's' and made.value or ''
            end
        end
        id = append(fields)
        for _, made in ipairs(effective) do
            made.after = id
            if made.kind == 'D' then
                delete(made.key)
            elseif made.kind == 'A' then
                if made.before ~= '' then
                    change('HSET', VERSIONS, made.key, id)
                end
            elseif made.kind == 'I' then
                change('HSET', DATA, made.key, made.value)
                change('HSET', VERSIONS, made.key, id)
            else
                set(made.key, made.value, id)
            end
        end
    end
    for _, made in ipairs(changes) do
        local ttl, idle = parse_expiry(made.expiry)
        if made.kind == 'N' and made.before ~= '' or made.kind == 'D' or not version_of(made.key) then
            ttl, idle = KEEP, KEEP
        elseif made.kind == 'X' then
            idle = KEEP
        end
        set_deadline(TTL, made.key, ttl)
        set_deadline(IDLE, made.key, idle)
    end
    free(holder, turns)
    local reply = {'OK', id, #effective > 0 and '1' or '0'}
    for _, made in ipairs(changes) do
        reply[#reply + 1] = made.before
        reply[#reply + 1] = made.answer
        reply[#reply + 1] = made.after
    end
    return reply
end

local function text(problem)
    return type(problem) == 'table' and problem.err or 'ERR ' .. tostring(problem)
end

local function once(operation)
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
    local done, reply = pcall(operation, take())
    if not done then
        if not changed then
            error(reply, 0)
        end
        reply = {'HALF', text(reply)}
    end
    redis.call('SET', PREFIX .. 'op:' .. writer, cmsgpack.pack({number, reply}), 'PX', OPERATION_EXPIRY)
    return reply
end

local function operate()
    local name = ARGV[1]
    if name ~= 'adopt' and (meta[1] ~= run or not epoch) then
        return {'RUN'}
    end
    return operations[name] and operations[name]() or once(numbered[name])
end

local done, reply = pcall(operate)
if done then
    return reply
elseif changed then
    return {'HALF', text(reply)}
end
return redis.error_reply(text(reply))
