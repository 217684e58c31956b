-- Has wrk send each request with another one of the tokens of a file. Arguments: the file, the method, a file for the body.

local requests, sent = {}, 0

function init(arguments)
  wrk.method = arguments[2]
  if arguments[3] then
    wrk.body = io.open(arguments[3]):read("*a")
    wrk.headers["Content-Type"] = "application/scim+json"
  end
  for token in io.lines(arguments[1]) do
    wrk.headers["Authorization"] = "Bearer " .. token
    requests[#requests + 1] = wrk.format()
  end
end

function request()
  sent = sent + 1
  return requests[sent % #requests + 1]
end

function done(summary)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("\nrequests=%d bytes=%d refused=%d broken=%d\n", summary.requests, summary.bytes, errors.status, broken))
end
