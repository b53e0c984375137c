// Loaded into a gateway by `--import`: names resolve as a test says, and no connection leaves the loopback.
import { appendFileSync, readFileSync } from 'node:fs'
import dns from 'node:dns'
import net, { isIP } from 'node:net'

/** Directory with `names.json`: name to its answers, one after the other, the last for good. Lookups go to `log`. */
const dir = process.env['TEST_NAMES'] ?? ''

const asked = new Map<string, number>()
const lookup = dns.lookup
const now = performance.now.bind(performance)
let ahead = 0
performance.now = () => now() + ahead

type Found = (error: Error | null, addresses: { address: string; family: number }[]) => void

function scripted(hostname: string, options: dns.LookupAllOptions, callback: Found): void {
  const names: unknown = JSON.parse(readFileSync(`${dir}/names.json`, 'utf8'))
  // `ahead-<milliseconds>.test` moves the clock.
  const move = /^ahead-(\d+)\.test$/.exec(hostname)
  if (move !== null) ahead += Number(move[1])
  const answers = Object(names)[hostname]
  if (!Array.isArray(answers)) {
    lookup(hostname, options, callback)
    return
  }
  const count = asked.get(hostname) ?? 0
  asked.set(hostname, count + 1)
  appendFileSync(`${dir}/log`, `${hostname}\n`)
  const answer: unknown = answers[Math.min(count, answers.length - 1)]
  if (!Array.isArray(answer)) {
    const error = Object.assign(new Error(`getaddrinfo ${String(answer)}`), { code: answer })
    setImmediate(callback, error, [])
    return
  }
  const addresses = answer.map(address => ({
    address: String(address),
    family: isIP(`${address}`),
  }))
  setImmediate(callback, null, addresses)
}
Object.assign(dns, { lookup: scripted })

// An address in a URL that is not the loopback's is dialled there all the same.
const connect = net.connect
Object.assign(net, {
  connect(options: net.NetConnectOpts, ...rest: []) {
    const host = 'host' in options ? (options.host ?? '') : ''
    const elsewhere = isIP(host) !== 0 && !host.startsWith('127.') && host !== '::1'
    if (elsewhere) appendFileSync(`${dir}/log`, `dial ${host}\n`)
    return connect(elsewhere ? { ...options, host: '127.0.0.1' } : options, ...rest)
  },
})
