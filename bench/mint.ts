// Mandates from the development STS, minted ahead of the time that is measured.
import { Pool } from 'undici'

const MINTERS = 16

/** Resolves once so many mandates for a resource were handed to `take`. @throws Error when the STS mints none */
export async function mint(
  { sts, resource }: { readonly sts: string; readonly resource: string },
  count: number,
  take: (token: string) => void,
): Promise<void> {
  const pool = new Pool(sts, { connections: MINTERS })
  const path = `/mint?${new URLSearchParams({ resource }).toString()}`
  let asked = 0
  const minter = async () => {
    while (asked < count) {
      asked += 1
      const { statusCode, body } = await pool.request({ path, method: 'GET' })
      const token = await body.text()
      if (statusCode !== 200) throw new Error(`the STS answered ${statusCode}: ${token}`)
      take(token)
    }
  }
  await Promise.all(Array.from({ length: MINTERS }, minter))
  await pool.close()
}
