// Runs the echo upstream as a process of its own, for the compose file: PORT (8082), HOST (127.0.0.1).

import { once } from 'node:events'
import { createEcho } from './echo.ts'

const { env } = process
const host = env['HOST'] || '127.0.0.1'
const port = Number(env['PORT'] || 8082)
const echo = createEcho()
function stop(): void {
  echo.close()
  echo.closeAllConnections()
}
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, stop)
echo.listen(port, host)
await once(echo, 'listening')
console.log(`echo upstream on http://${host}:${port}`)
