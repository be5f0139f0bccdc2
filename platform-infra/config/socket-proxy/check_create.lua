-- Reads a request to create a container and says whether a run may have it.
-- A list of what is allowed, not of what is forbidden: the engine matches names without regard to case and takes the last
-- of two equal names, so looking for "Privileged" would be passed by "privileged" or by a second one. Here every name has
-- to be written exactly as below and only once, and whatever is not below is refused.
local STACK = os.getenv("DML_STACK") or ""
local STATE = os.getenv("DML_STATE") or ""
local UNITS = {k = 1024, m = 1024 ^ 2, g = 1024 ^ 3, t = 1024 ^ 4}

local function bytes(text)
  local number, unit = string.match(string.lower(text or ""), "^(%d+)([kmgt]?)b?$")
  return number and tonumber(number) * (UNITS[unit] or 1) or 0
end
local MEMORY_MAX = bytes(os.getenv("DML_RUN_MEMORY_MAX"))

-- ---- JSON, strictly: error(text) on anything unusual ---------------------------------------------------------------
local NULL = {}
local parse_value

local function skip(text, at)
  return string.find(text, "[^ \t\r\n]", at) or #text + 1
end

-- A string as it is written, without resolving escapes: what is compared below holds none.
local function parse_string(text, at)
  local from = at + 1
  while true do
    at = string.find(text, '["\\%c]', at + 1)
    if not at then error("a string that does not end") end
    local char = string.sub(text, at, at)
    if char == '"' then return string.sub(text, from, at - 1), at + 1 end
    if char ~= "\\" then error("a control character in a string") end
    at = at + 1
  end
end

local function parse_list(text, at, depth)
  local list = {}
  at = skip(text, at + 1)
  if string.sub(text, at, at) == "]" then return list, at + 1 end
  while true do
    list[#list + 1], at = parse_value(text, at, depth)
    at = skip(text, at)
    local char = string.sub(text, at, at)
    if char == "]" then return list, at + 1 end
    if char ~= "," then error("a list that does not end") end
    at = skip(text, at + 1)
  end
end

local function parse_object(text, at, depth)
  local object, seen = {}, {}
  at = skip(text, at + 1)
  if string.sub(text, at, at) == "}" then return object, at + 1 end
  while true do
    if string.sub(text, at, at) ~= '"' then error("a name without quotes") end
    local name
    name, at = parse_string(text, at)
    -- Printable ASCII only: the engine folds some other letters onto these when it compares names.
    if string.find(name, "[^ -~]") or string.find(name, "\\", 1, true) then error("an unusual name") end
    local folded = string.lower(name)
    if seen[folded] then error("the name " .. name .. " twice") end
    seen[folded] = true
    at = skip(text, at)
    if string.sub(text, at, at) ~= ":" then error("a name without a value") end
    object[name], at = parse_value(text, skip(text, at + 1), depth)
    at = skip(text, at)
    local char = string.sub(text, at, at)
    if char == "}" then return object, at + 1 end
    if char ~= "," then error("an object that does not end") end
    at = skip(text, at + 1)
  end
end

function parse_value(text, at, depth)
  if depth > 20 then error("too deep") end
  local char = string.sub(text, at, at)
  if char == "{" then return parse_object(text, at, depth + 1) end
  if char == "[" then return parse_list(text, at, depth + 1) end
  if char == '"' then return parse_string(text, at) end
  for word, value in pairs({["true"] = true, ["false"] = false, ["null"] = NULL}) do
    if string.sub(text, at, at + #word - 1) == word then return value, at + #word end
  end
  local number = string.match(text, "^%-?%d+", at)
  if not number or string.find(text, "^[%.eE%d]", at + #number) then error("a value that is no JSON") end
  return tonumber(number), at + #number
end

local function parse(text)
  local value, at = parse_value(text, skip(text, 1), 0)
  if skip(text, at) <= #text then error("something after the end") end
  return value
end

-- ---- What a run may have: each function raises what is wrong -------------------------------------------------------
local function refuse(...) error(table.concat({...}), 0) end

local function is_text(value) return type(value) == "string" end

local function only(object, allowed, where)
  if type(object) ~= "table" then refuse(where, " is not an object") end
  for name, value in pairs(object) do
    if value ~= NULL then
      local rule = allowed[name]
      if rule == nil then refuse(where, ".", tostring(name), " is not allowed") end
      if rule ~= true and not rule(value) then refuse(where, ".", name, " has a value that is not allowed") end
    end
  end
end

local function is_off(value) return value == false or value == "" or (type(value) == "table" and next(value) == nil) end

local function is_list_of_text(value)
  if type(value) ~= "table" or value == NULL then return false end
  for key, item in pairs(value) do
    if type(key) ~= "number" or not is_text(item) then return false end
  end
  return true
end

local function is_just(...)
  local wanted = {...}
  return function(value)
    if not is_list_of_text(value) or #value ~= #wanted then return false end
    for index, item in ipairs(wanted) do
      if value[index] ~= item then return false end
    end
    return true
  end
end

local function between(low, high)
  return function(value) return type(value) == "number" and value >= low and value <= high end
end

local function is_scratch(value)
  if type(value) ~= "table" then return false end
  for path, options in pairs(value) do
    if path ~= "/tmp" or not is_text(options) or string.find(options, "[^%w=,]") then return false end
  end
  return true
end

local function check_mounts(mounts, project)
  if type(mounts) ~= "table" then refuse("Mounts is not a list") end
  local folder = STATE .. "/secrets/projects/" .. project .. "/"
  for _, mount in ipairs(mounts) do
    if type(mount) ~= "table" then refuse("a mount is not an object") end
    if mount.Type == "volume" then
      -- Without a name, so it is this container's own and goes with it.
      only(mount, {Type = true, ReadOnly = is_off, Source = is_off, Target = function(value) return value == "/var/lib/dml" end}, "a volume")
    else
      only(mount, {Type = true, ReadOnly = true, Source = is_text, Target = is_text}, "a mount")
      if mount.Type ~= "bind" then refuse("a mount of this type is not allowed") end
      if mount.ReadOnly ~= true then refuse("a mount that can be written to is not allowed") end
      local source = is_text(mount.Source) and mount.Source or ""
      if string.sub(source, 1, #folder) ~= folder or not string.find(string.sub(source, #folder + 1), "^[%w_][%w_%-]*$") then
        refuse("a mount from outside the secrets of ", project, " is not allowed")
      end
      if not string.find(mount.Target or "", "^/run/secrets/[%w_][%w_%-]*$") then refuse("a mount to this place is not allowed") end
    end
  end
end

local HARMLESS = {
  AttachStdin = is_off, AttachStdout = true, AttachStderr = true, Tty = is_off, OpenStdin = is_off, StdinOnce = is_off,
  NetworkDisabled = is_off, Volumes = is_off, ExposedPorts = is_off, Cmd = is_list_of_text, Env = is_list_of_text,
  StopTimeout = between(0, 600), Labels = true, HostConfig = true, NetworkingConfig = true,
  Healthcheck = function(value) only(value, {Test = is_just("NONE")}, "Healthcheck") return true end,
  User = function(value) return value == "10001:10001" end,
  Image = function(value) return is_text(value) and string.find(value, "^[%w][%w%.%-_:/]*@sha256:" .. string.rep("%x", 64) .. "$") ~= nil end,
}

local function check(body)
  only(body, HARMLESS, "the container")
  for _, name in ipairs({"User", "Image", "Labels", "HostConfig", "NetworkingConfig"}) do
    if body[name] == nil or body[name] == NULL then refuse("the container has no ", name) end
  end
  local labels = body.Labels
  if type(labels) ~= "table" then refuse("Labels is not an object") end
  for name, value in pairs(labels) do
    if not is_text(name) or not is_text(value) then refuse("a label is not text") end
    if string.find(name, "^com%.docker%.") then refuse("a label of Docker's own is not allowed") end
  end
  local project = labels["dml.project"] or ""
  if not string.find(project, "^[a-z][a-z0-9_%-]*$") then refuse("the label dml.project names no project") end
  if labels["dml.role"] ~= "run" or labels["dml.stack"] ~= STACK then refuse("the labels are not those of a run") end
  local network = STACK .. "_project_" .. project

  only(body.HostConfig, {
    NetworkMode = function(value) return value == network end,
    Memory = between(6 * 1024 ^ 2, MEMORY_MAX), MemorySwap = between(0, MEMORY_MAX), NanoCpus = between(1, 1024 * 10 ^ 9), PidsLimit = between(1, 10000),
    CapDrop = is_just("ALL"), SecurityOpt = is_just("no-new-privileges:true"), ReadonlyRootfs = function(value) return value == true end,
    Init = true, Tmpfs = is_scratch, Mounts = true, LogConfig = true,
  }, "HostConfig")
  for _, name in ipairs({"NetworkMode", "Memory", "NanoCpus", "PidsLimit", "CapDrop", "SecurityOpt", "ReadonlyRootfs"}) do
    local value = body.HostConfig[name]
    if value == nil or value == NULL then refuse("HostConfig has no ", name) end
  end
  check_mounts(body.HostConfig.Mounts or {}, project)
  local log = body.HostConfig.LogConfig
  if log and log ~= NULL then
    only(log, {Type = function(value) return value == "json-file" end, Config = true}, "LogConfig")
    only(log.Config or {}, {["max-size"] = is_text, ["max-file"] = is_text}, "LogConfig.Config")
  end
  only(body.NetworkingConfig, {EndpointsConfig = true}, "NetworkingConfig")
  local endpoints = body.NetworkingConfig.EndpointsConfig
  if endpoints and endpoints ~= NULL then only(endpoints, {[network] = is_off}, "EndpointsConfig") end
end

local function verdict(text)
  if STACK == "" or STATE == "" or MEMORY_MAX == 0 then return "the proxy is not set up" end
  local parsed, body = pcall(parse, text)
  if not parsed then return "the request is not plain JSON: " .. string.gsub(tostring(body), "^.-:%d+: ", "") end
  local fine, why = pcall(check, body)
  return fine and "accepted" or tostring(why)
end

if core then
  core.register_action("check_create", {"http-req"}, function(txn)
    local length = txn.f:req_hdr("content-length") or ""
    local text = txn.f:req_body() or ""
    if not string.find(length, "^%d+$") or tonumber(length) ~= #text then
      txn:set_var("txn.verdict", "the request is too long or has no length")
    else
      txn:set_var("txn.verdict", verdict(text))
    end
  end)
end
return verdict
