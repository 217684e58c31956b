-- Asks scim-guard whether a request may pass. haproxy.cfg names the URL to ask, and lets through only what
-- `txn.scim_guard` calls allowed.

local CONTENT_TYPE = "application/scim+json"
local UNDECIDED = '{"schemas":["urn:ietf:params:scim:api:messages:2.0:Error"],"status":"503",'
    .. '"detail":"The access token cannot be checked at the moment; try again later."}'

-- The only value of a header. None for a header that is missing, empty or there twice.
local function one(headers, name)
    local values = {}
    for _, value in pairs(headers[name] or {}) do
        values[#values + 1] = value
    end
    if #values == 1 and values[1] ~= "" then
        return values[1]
    end
end

local function ask(txn, url)
    local sent = txn.http:req_get_headers()
    -- Repeated ones stay repeated: the guard refuses them.
    return core.httpclient():get({
        url = url,
        timeout = 4000,
        headers = {
            ["authorization"] = sent["authorization"],
            ["traceparent"] = sent["traceparent"],
            ["x-request-id"] = sent["x-request-id"],
            ["x-forwarded-for"] = { txn.f:src() },
            ["x-forwarded-host"] = sent["host"],
            ["x-forwarded-method"] = { txn.f:method() },
            ["x-forwarded-uri"] = { txn.f:pathq() },
        },
    })
end

local function refuse(txn, answer)
    local reply = txn:reply()
    local body = UNDECIDED
    if answer and answer.status >= 400 and one(answer.headers, "content-type") == CONTENT_TYPE then
        reply:set_status(answer.status)
        body = answer.body
        for _, name in ipairs({ "www-authenticate", "retry-after", "x-request-id" }) do
            local value = one(answer.headers, name)
            if value then
                reply:add_header(name, value)
            end
        end
    else
        -- The guard is away, or it is not the guard that has answered.
        reply:set_status(503)
        reply:add_header("retry-after", "5")
    end
    reply:add_header("cache-control", "no-store")
    reply:add_header("content-type", CONTENT_TYPE)
    if txn.f:method() ~= "HEAD" then
        reply:set_body(body)
    end
    txn:done(reply)
end

core.register_action("scim_guard", { "http-req" }, function(txn, url)
    local answer = ask(txn, url)
    local credential_id = answer and one(answer.headers, "x-scim-credential-id")
    local tenant = answer and one(answer.headers, "x-scim-tenant")
    if not (answer and answer.status == 200 and credential_id and tenant) then
        return refuse(txn, answer)
    end
    txn:set_var("txn.scim_credential_id", credential_id)
    txn:set_var("txn.scim_tenant", tenant)
    txn:set_var("txn.scim_request_id", one(answer.headers, "x-request-id") or "")
    txn:set_var("txn.scim_guard", "allowed")
end, 1)
