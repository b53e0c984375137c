// Runs the development STS as a process of its own, for the compose file. Never for production: anyone may mint.
//
// PORT (8080), HOST (127.0.0.1), ZONES (comma-separated, default zone-demo), RESOURCE
// (resource://demo), UPSTREAM_URL (http://127.0.0.1:8082), STS_ISSUER, GATEWAY_STS_HMAC_KEY.

import { createDevSts, DEV_ISSUER } from './sts.ts'

const { env } = process
const hmacKey = env['GATEWAY_STS_HMAC_KEY']
const sts = createDevSts({
  issuer: env['STS_ISSUER'] || DEV_ISSUER,
  zones: (env['ZONES'] || 'zone-demo').split(','),
  resources: {
    [env['RESOURCE'] || 'resource://demo']: {
      url: env['UPSTREAM_URL'] || 'http://127.0.0.1:8082',
      auth_mode: 'caracal_jwt',
    },
  },
  ...(hmacKey ? { hmacKey } : {}),
})
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => void sts.close())
console.log(
  `development STS on ${await sts.listen(Number(env['PORT'] || 8080), env['HOST'] || '127.0.0.1')}`,
)
