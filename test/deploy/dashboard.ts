// Takes the PromQL out of a Grafana dashboard.

interface Dashboard {
  readonly panels: readonly { readonly targets?: readonly { readonly expr: string }[] }[]
}

/** Every query of a dashboard's panels, with Grafana's own variable replaced by what it stands for. */
export function dashboardQueries({ panels }: Dashboard): string[] {
  return panels
    .flatMap(({ targets = [] }) => targets)
    .map(({ expr }) => expr.replaceAll('$__rate_interval', '5m'))
}
